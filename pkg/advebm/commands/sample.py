"""Sampling."""

from collections.abc import Iterable
from pathlib import Path

from advebm import config
from advebm.commands import options as o
from advebm.commands.measuring import resumable
from advebm.commands.prepare import about

STRIP = 12  # images of a strip figure


def sample(
    method: o.Method,
    model: o.ModelFile,
    data: o.Prepared,
    gaussians: o.GaussiansFile,
    out: o.OutFolder,
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
    quiet: o.Quiet = False,
) -> None:
    """Generate the study's number of images by each recipe of the method: RECIPE.npz, and in pictures/ a grid of them and
    a strip of the recipe's stages.

    Image i is of class i mod K and has a random stream of its own, so it is the same in any order and company, unless the
    network was trained on batch statistics and so samples on those of the images that are made together.
    """
    entry = config.read(params, study, method)
    from functools import partial

    import torch

    from advebm import figures, networks, progress, tracking
    from advebm.data import images
    from advebm.evaluation.parts import BATCH, SEED, gathered
    from advebm.networks.passes import Passes
    from advebm.samplers.streams import Streams

    recipes = config.recipes(entry, method)
    device, classes = networks.device(), about(data)["classes"]
    net, starts = generator(recipes, f"{study}.sampling.{method}", model, data, gaussians)
    passes = Passes.on(device, entry["precision"])
    pictures = out / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    spec = config.stage_specs(entry, method)["sample"]

    def generated(name: str, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """The bytes of images `ids` (B, H, W, C); of the first ones also, as "0 start", "1 attack", ..., each stage."""
        with passes.sampling(net) as f:
            together = company(net, ids)
            stages = recipes[name](f, together % classes, starts, Streams(SEED, "sample", name, ids=together))
        stages = {stage: x[: len(ids)] for stage, x in stages.items()}
        x = list(stages.values())[-1]
        if not x.isfinite().all():
            raise ValueError(f"{study}.sampling.{method}.{name}: images are not finite; take smaller steps or noise")
        strip = {f"{i} {stage}": x[:STRIP] for i, (stage, x) in enumerate(stages.items())} if ids[0] == 0 else {}
        return {key: torch.from_numpy(images.to_bytes(x)) for key, x in {"x": x, **strip}.items()}

    with (
        resumable("sample", out, entry, method, model, data, images.digest(gaussians)) as state,
        tracking.run(stage="sample", study=study, method=method, checkpoint=images.digest(model), spec=spec) as run,
    ):
        for name, recipe in recipes.items():
            y = torch.arange(entry["samples"], device=device)
            makers = {f"{name} from {ids[0]}": partial(generated, name, ids) for ids in y.split(BATCH)}
            parts = gathered(makers, state.part, progress.bar(f"sample {study}/{method} {name}", quiet))
            asked = (y % classes).cpu().numpy() if recipe.asks else None
            made = images.Images(torch.cat([part["x"] for part in parts]).numpy(), asked)
            images.save(out / f"{name}.npz", made)
            stages = sorted((key for key in parts[0] if key != "x"), key=lambda key: int(key.split()[0]))
            strip = {key.split(maxsplit=1)[1]: parts[0][key].numpy() for key in stages}
            title = f"{study} {method}: {name}"
            draw = figures.class_grid if recipe.asks else figures.grid
            run.artifact(draw(made if recipe.asks else made.x[:120], pictures / f"{name}.png", title), "samples")
            run.artifact(figures.strip(strip, pictures / f"{name}_strip.png", title), "samples")
    print(f"wrote {out}: {entry['samples']} images by each of {', '.join(recipes) or 'no recipes'}")


def generator(recipes: dict, where: str, model: Path, data: Path, gaussians: Path) -> tuple:
    """(network, starts): what the recipes generate by, and what they may start from. A network whose chains were normalised
    by the statistics of their batch in training is in training mode.
    Raises ValueError where a recipe follows logits of classes that the network does not have."""
    from advebm import networks
    from advebm.data import images
    from advebm.data.gaussians import Gaussians

    described, device = about(data), networks.device()
    net, header = networks.load(model, device, shape=described["shape"])
    net.train(header.get("statistics") == "batch")
    for name, recipe in recipes.items():
        if recipe.guided and header["outputs"] != described["classes"]:
            raise ValueError(
                f"{where}.{name}: follows the logits of {described['classes']} classes, but the network has "
                f"{header['outputs']}; use sgld (conditional: false), ascent or draw"
            )
    outliers = images.load(data / "outliers.npz") if any(r.start == "outliers" for r in recipes.values()) else None
    return net, start_images(Gaussians.load(gaussians, device), outliers)


def company(net, ids):
    """The images `ids` and, where the network samples on the statistics of its batch, so many more that the last images are
    made beside as many as the others."""
    import torch

    from advebm.evaluation.parts import BATCH

    return torch.arange(BATCH, device=ids.device) + ids[0] if net.training else ids


def start_images(gaussians, outliers=None) -> dict:
    """What a recipe may start from, by name; outliers are the study's in an order of chance, again from the first where
    there are too few: without noise, equal starts would give equal images."""
    import numpy as np

    from advebm.evaluation.parts import SEED

    order = None if outliers is None else np.random.default_rng(SEED).permutation(len(outliers.x))

    def drawn(y, streams):
        return outliers[order[streams.ids.cpu().numpy() % len(order)]].pixels(y.device)

    return {
        "gaussians": gaussians.sample,
        "uniform": lambda y, streams: streams.uniform(*gaussians.shape),
        "outliers": drawn,
    }


def sampled(folder: Path, recipes: Iterable[str]) -> dict:
    """{recipe: Images} of what `sample` wrote. Raises FileNotFoundError where a recipe's file is missing."""
    from advebm.data import images

    return {name: images.load(folder / f"{name}.npz") for name in recipes}
