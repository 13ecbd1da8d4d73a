"""Fisher scores."""

import json

from advebm import config
from advebm.commands import options as o
from advebm.commands.prepare import about


def fisher(
    method: o.Method,
    model: o.ModelFile,
    data: o.Prepared,
    out: o.OutFile,
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
    batch: o.Batch = 100,
    quiet: o.Quiet = False,
) -> None:
    """Fisher scores of E(x, y) and E(x) on test images."""
    entry = config.read(params, study, method)
    from advebm import networks, progress, tracking
    from advebm.data import images
    from advebm.evaluation import fisher as evaluation

    spec = config.build(evaluation.Fisher, entry["fisher"])
    net, _ = networks.load(model, networks.device(), shape=about(data)["shape"])
    numbers = evaluation.fisher(
        net,
        images.load(data / f"{spec.split}.npz"),
        spec,
        seed=o.EVALUATION_SEED,
        batch=batch,
        progress=progress.bar(f"fisher {study}/{method}", quiet),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(numbers, indent=1) + "\n")
    protocol = config.stage_specs(entry, method)["fisher"]
    found = {name: numbers[name] for name in ("joint", "marginal") if numbers[name]}
    with tracking.run(stage="fisher", study=study, method=method, checkpoint=images.digest(model), spec=protocol) as run:
        run.metrics({f"fisher/{name}/{key}": v[key] for name, v in found.items() for key in ("score", "se")})
    print(f"wrote {out}: " + ", ".join(f"{n} {v['score']:.4g} +- {v['se']:.2g} ({v['ways']})" for n, v in found.items()))
