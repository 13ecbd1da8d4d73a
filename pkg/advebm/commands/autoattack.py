"""Robust accuracy by AutoAttack."""

from advebm import config
from advebm.commands import options as o
from advebm.commands.measuring import keep, measure, resumable


def autoattack(
    method: o.Method,
    model: o.ModelFile,
    data: o.Prepared,
    out: o.OutFile,
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
    quiet: o.Quiet = False,
) -> None:
    """Accuracy on test images after each attack of AutoAttack's standard version."""
    entry = config.read(params, study, method)
    from advebm.evaluation import autoattack as evaluation
    from advebm.runtime import progress

    spec = config.build(evaluation.AutoAttack, entry["autoattack"])
    with resumable("autoattack", out, entry, method, model, data) as state:
        bar = progress.bar(f"autoattack {study}/{method}", quiet)
        numbers = measure(evaluation.autoattack, spec, model, data, part=state.part, progress=bar)
        with keep("autoattack", out, numbers, entry, study, method, model) as run:
            run.metrics({f"autoattack/{norm}": numbers[norm]["accuracy"] for norm in spec.eps})
    shown = (f"{norm} {'-' if (a := numbers[norm]['accuracy']) is None else f'{a:.4f}'}" for norm in spec.eps)
    print(f"wrote {out}: " + ", ".join(shown))
    for warning in numbers["warnings"]:
        print(f"warning: gradients may be masked: {warning}")
