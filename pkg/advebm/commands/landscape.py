"""Energy landscapes."""

from advebm import config
from advebm.commands import options as o
from advebm.commands.measuring import keep, network


def landscape(
    method: o.Method,
    model: o.ModelFile,
    data: o.Prepared,
    out: o.OutFolder,
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
    quiet: o.Quiet = False,
) -> None:
    """The energy on planes of random directions through test images.

    Writes landscape.json and landscape.png (a surface for each image).
    """
    entry = config.read(params, study, method)
    from advebm import figures
    from advebm.data import images
    from advebm.evaluation import landscape as evaluation
    from advebm.runtime import progress
    from advebm.runtime.parts import SEED

    spec = config.build(evaluation.Landscape, entry["landscape"])
    net = network(model, data)
    inside = images.load(data / f"{spec.split}.npz")
    numbers, energies = evaluation.landscape(
        net,
        inside,
        spec,
        seed=SEED,
        progress=progress.bar(f"landscape {study}/{method}", quiet),
    )
    with keep("landscape", out / "landscape.json", numbers, entry, study, method, model) as run:
        run.metrics({"landscape/rise": numbers["rise"]})
        title = f"{study} {method}: {'E(x, y)' if net.outputs > 1 else 'E(x)'} around images, less that of the image"
        picture = figures.surfaces(inside.x[: spec.images], energies, spec.radius, out / "landscape.png", title)
        run.artifact(picture, "landscape")
    print(f"wrote {out}: the energy rises by {numbers['rise']:.4g} within {spec.radius}")
