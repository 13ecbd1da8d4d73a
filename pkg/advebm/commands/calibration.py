"""Calibration."""

from advebm import config
from advebm.commands import options as o
from advebm.commands.measuring import keep, measure


def calibration(
    method: o.Method,
    model: o.ModelFile,
    data: o.Prepared,
    out: o.OutFolder,
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
    quiet: o.Quiet = False,
) -> None:
    """Expected calibration error on test images.

    Writes calibration.json and calibration.png (a reliability diagram).
    """
    entry = config.read(params, study, method)
    from advebm import figures
    from advebm.evaluation import calibration as evaluation
    from advebm.runtime import progress

    spec = config.build(evaluation.Calibration, entry["calibration"])
    bar = progress.bar(f"calibration {study}/{method}", quiet)
    numbers = measure(evaluation.calibration, spec, model, data, progress=bar)
    with keep("calibration", out / "calibration.json", numbers, entry, study, method, model) as run:
        run.metrics({f"calibration/{key}": numbers[key] for key in ("ece", "accuracy", "confidence")})
        run.artifact(figures.reliability(numbers, out / "calibration.png", f"{study} {method}"), "calibration")
    print(f"wrote {out}: " + ("no classes" if numbers["ece"] is None else f"ECE {numbers['ece']:.4f}"))
