"""Fisher scores."""

from advebm import config
from advebm.commands import options as o
from advebm.commands.measuring import keep, measure, resumable


def fisher(
    method: o.Method,
    model: o.ModelFile,
    data: o.Prepared,
    out: o.OutFile,
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
    quiet: o.Quiet = False,
) -> None:
    """Fisher scores of E(x, y) and E(x) on test images."""
    entry = config.read(params, study, method)
    from advebm.evaluation import fisher as evaluation
    from advebm.runtime import progress

    spec = config.build(evaluation.Fisher, entry["fisher"])
    with resumable("fisher", out, entry, method, model, data) as state:
        bar = progress.bar(f"fisher {study}/{method}", quiet)
        numbers = measure(evaluation.fisher, spec, model, data, part=state.part, progress=bar)
        found = {name: numbers[name] for name in ("joint", "marginal") if numbers[name]}
        with keep("fisher", out, numbers, entry, study, method, model) as run:
            run.metrics({f"fisher/{name}/{key}": v[key] for name, v in found.items() for key in ("score", "se")})
    print(f"wrote {out}: " + ", ".join(f"{n} {v['score']:.4g} +- {v['se']:.2g} ({v['ways']})" for n, v in found.items()))
