"""Nearest neighbours of samples."""

from pathlib import Path
from typing import Annotated

from typer import Option

from advebm import config
from advebm.commands import options as o
from advebm.commands.measuring import keep
from advebm.commands.sample import sampled


def neighbours(
    method: o.Method,
    samples: Annotated[Path, Option(help="folder that `sample` wrote")],
    model: o.ModelFile,
    data: o.Prepared,
    out: o.OutFolder,
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
    quiet: o.Quiet = False,
) -> None:
    """The training images nearest to the samples of each recipe, by L2 and by SSIM, and to as many test images.

    Writes neighbours.json and neighbours.png.
    """
    entry = config.read(params, study, method)
    from advebm import figures, networks
    from advebm.data import images
    from advebm.evaluation import neighbours as evaluation
    from advebm.runtime import progress

    spec = config.build(evaluation.Neighbours, entry["neighbours"])
    made = sampled(samples, config.recipes(entry, method))
    train = images.load(data / "train.npz")
    numbers, found = evaluation.neighbours(
        made,
        train,
        images.load(data / "test.npz")[: entry["samples"]],
        spec,
        device=networks.device(),
        progress=progress.bar(f"neighbours {study}/{method}", quiet),
    )
    with keep("neighbours", out / "neighbours.json", numbers, entry, study, method, model) as run:
        run.metrics({f"neighbours/{k.replace('.', '/')}": v for k, v in config.flat(numbers).items()})
        pictured = {name: x for name, (x, _) in made.items()}
        picture = figures.nearest(pictured, train.x, found, numbers, out / "neighbours.png", f"{study} {method}")
        run.artifact(picture, "neighbours")
    print(f"wrote {out}: " + ", ".join(f"{name} {v['l2']['median']:.3g}" for name, v in numbers.items()))
