"""Robust accuracy."""

import json

from advebm import config
from advebm.commands import options as o
from advebm.commands.prepare import about


def robustness(
    method: o.Method,
    model: o.ModelFile,
    data: o.Prepared,
    out: o.OutFolder,
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
    batch: o.Batch = 500,
    quiet: o.Quiet = False,
) -> None:
    """Accuracy on test images, clean, under the study's attacks, and against the radius.

    Writes robustness.json and robustness.png.
    """
    entry = config.read(params, study, method)
    from advebm import figures, networks, progress, tracking
    from advebm.data import images
    from advebm.evaluation import robustness as evaluation

    spec = config.build(evaluation.Robustness, entry["robustness"])
    net, _ = networks.load(model, networks.device(), shape=about(data)["shape"])
    numbers = evaluation.robustness(
        net,
        images.load(data / f"{spec.split}.npz"),
        spec,
        seed=o.EVALUATION_SEED,
        batch=batch,
        progress=progress.bar(f"robustness {study}/{method}", quiet),
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / "robustness.json").write_text(json.dumps(numbers, indent=1) + "\n")
    protocol = config.stage_specs(entry, method)["robustness"]
    with tracking.run(
        stage="robustness", study=study, method=method, checkpoint=images.digest(model), spec=protocol
    ) as run:
        accuracies = {"clean": numbers["clean"]} | {name: a["accuracy"] for name, a in numbers["attacks"].items()}
        run.metrics({f"robustness/{name}": value for name, value in accuracies.items() if value is not None})
        run.artifact(figures.radius(numbers["curve"], out / "robustness.png", f"{study} {method}"), "robustness")
    print(f"wrote {out}: " + ", ".join(f"{name} {'-' if v is None else f'{v:.4f}'}" for name, v in accuracies.items()))
    for warning in numbers["warnings"]:
        print(f"warning: gradients may be masked: {warning}")
