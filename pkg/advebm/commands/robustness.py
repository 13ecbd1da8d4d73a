"""Robust accuracy."""

from advebm import config
from advebm.commands import options as o
from advebm.commands.measuring import keep, measure, resumable


def robustness(
    method: o.Method,
    model: o.ModelFile,
    data: o.Prepared,
    out: o.OutFolder,
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
    quiet: o.Quiet = False,
) -> None:
    """Accuracy on test images, clean, under the study's attacks, and against the radius.

    Writes robustness.json and robustness.png.
    """
    entry = config.read(params, study, method)
    from advebm import figures
    from advebm.evaluation import robustness as evaluation
    from advebm.runtime import progress

    spec = config.build(evaluation.Robustness, entry["robustness"])
    with resumable("robustness", out / "robustness.json", entry, method, model, data) as state:
        bar = progress.bar(f"robustness {study}/{method}", quiet)
        numbers = measure(evaluation.robustness, spec, model, data, part=state.part, progress=bar)
        with keep("robustness", out / "robustness.json", numbers, entry, study, method, model) as run:
            accuracies = {"clean": numbers["clean"]} | {name: a["accuracy"] for name, a in numbers["attacks"].items()}
            run.metrics({f"robustness/{name}": value for name, value in accuracies.items() if value is not None})
            run.artifact(figures.radius(numbers["curve"], out / "robustness.png", f"{study} {method}"), "robustness")
    print(f"wrote {out}: " + ", ".join(f"{name} {'-' if v is None else f'{v:.4f}'}" for name, v in accuracies.items()))
    for warning in numbers["warnings"]:
        print(f"warning: gradients may be masked: {warning}")
