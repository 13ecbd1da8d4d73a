"""Robust accuracy by AutoAttack."""

import json
import os
from pathlib import Path

from advebm import config
from advebm.commands import options as o
from advebm.commands.measuring import keep, network
from advebm.commands.prepare import about


def autoattack(
    method: o.Method,
    model: o.ModelFile,
    data: o.Prepared,
    out: o.OutFile,
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
    quiet: o.Quiet = False,
) -> None:
    """Accuracy on test images after each attack of AutoAttack's standard version.

    Interrupted, it goes on where it was when it is run again with the same model, images and numbers.
    """
    entry = config.read(params, study, method)
    from advebm import progress, tracking
    from advebm.data import images
    from advebm.evaluation import autoattack as evaluation

    spec = config.build(evaluation.AutoAttack, entry["autoattack"])
    net, code = network(model, data), Path(evaluation.__file__).read_text()
    key = config.digest([images.digest(model), about(data)["sha256"], entry["autoattack"], code])
    partial = tracking.root() / "state" / f"autoattack-{key[:16]}.json"

    def save(done: evaluation.Done) -> None:
        partial.parent.mkdir(exist_ok=True)
        fresh = partial.with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps(done))
        fresh.replace(partial)

    numbers = evaluation.autoattack(
        net,
        images.load(data / f"{spec.split}.npz"),
        spec,
        seed=o.EVALUATION_SEED,
        done=json.loads(partial.read_text()) if partial.is_file() else None,
        save=save,
        progress=progress.bar(f"autoattack {study}/{method}", quiet),
    )
    with keep("autoattack", out, numbers, entry, study, method, model) as run:
        run.metrics({f"autoattack/{norm}": numbers[norm]["accuracy"] for norm in spec.eps})
    partial.unlink(missing_ok=True)
    shown = (f"{norm} {'-' if (a := numbers[norm]['accuracy']) is None else f'{a:.4f}'}" for norm in spec.eps)
    print(f"wrote {out}: " + ", ".join(shown))
    for warning in numbers["warnings"]:
        print(f"warning: gradients may be masked: {warning}")
