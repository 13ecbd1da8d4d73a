"""Calibration."""

import json

from advebm import config
from advebm.commands import options as o
from advebm.commands.prepare import about


def calibration(
    method: o.Method,
    model: o.ModelFile,
    data: o.Prepared,
    out: o.OutFolder,
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
    batch: o.Batch = 500,
    quiet: o.Quiet = False,
) -> None:
    """Expected calibration error on test images.

    Writes calibration.json and calibration.png (a reliability diagram).
    """
    entry = config.read(params, study, method)
    from advebm import figures, networks, progress, tracking
    from advebm.data import images
    from advebm.evaluation import calibration as evaluation

    spec = config.build(evaluation.Calibration, entry["calibration"])
    net, _ = networks.load(model, networks.device(), shape=about(data)["shape"])
    numbers = evaluation.calibration(
        net,
        images.load(data / f"{spec.split}.npz"),
        spec,
        seed=o.EVALUATION_SEED,
        batch=batch,
        progress=progress.bar(f"calibration {study}/{method}", quiet),
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / "calibration.json").write_text(json.dumps(numbers, indent=1) + "\n")
    protocol = config.stage_specs(entry, method)["calibration"]
    with tracking.run(
        stage="calibration", study=study, method=method, checkpoint=images.digest(model), spec=protocol
    ) as run:
        run.metrics({f"calibration/{key}": numbers[key] for key in ("ece", "accuracy", "confidence")})
        run.artifact(figures.reliability(numbers, out / "calibration.png", f"{study} {method}"), "calibration")
    print(f"wrote {out}: " + ("no classes" if numbers["ece"] is None else f"ECE {numbers['ece']:.4f}"))
