"""Energy landscapes."""

import json

from advebm import config
from advebm.commands import options as o
from advebm.commands.prepare import about


def landscape(
    method: o.Method,
    model: o.ModelFile,
    data: o.Prepared,
    out: o.OutFolder,
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
    batch: o.Batch = 500,
    quiet: o.Quiet = False,
) -> None:
    """The energy on planes of random directions through test images.

    Writes landscape.json and landscape.png (a surface for each image).
    """
    entry = config.read(params, study, method)
    from advebm import figures, networks, progress, tracking
    from advebm.data import images
    from advebm.evaluation import landscape as evaluation

    spec = config.build(evaluation.Landscape, entry["landscape"])
    net, _ = networks.load(model, networks.device(), shape=about(data)["shape"])
    inside = images.load(data / f"{spec.split}.npz")
    numbers, energies = evaluation.landscape(
        net,
        inside,
        spec,
        seed=o.EVALUATION_SEED,
        batch=batch,
        progress=progress.bar(f"landscape {study}/{method}", quiet),
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / "landscape.json").write_text(json.dumps(numbers, indent=1) + "\n")
    protocol = config.stage_specs(entry, method)["landscape"]
    with tracking.run(stage="landscape", study=study, method=method, checkpoint=images.digest(model), spec=protocol) as run:
        run.metrics({"landscape/rise": numbers["rise"]})
        title = f"{study} {method}: {'E(x, y)' if net.outputs > 1 else 'E(x)'} around images, less that of the image"
        picture = figures.surfaces(inside.x[: spec.images], energies, spec.radius, out / "landscape.png", title)
        run.artifact(picture, "landscape")
    print(f"wrote {out}: the energy rises by {numbers['rise']:.4g} within {spec.radius}")
