"""Sampling."""

import sys
from functools import partial

from advebm import config
from advebm.commands import options as o
from advebm.commands import tracked

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
    """Generate the study's number of images by each recipe of the method: RECIPE.npz, and in pictures/ a grid of images and
    a strip of the recipe's stages.

    Image i is of class i mod K and draws from its own random stream, so it does not depend on the other images, unless the
    network was trained with batch statistics: sampling then normalises by those of each batch.
    """
    entry = config.read(params, study, method)
    from torch import Tensor

    from advebm import figures
    from advebm.data import images
    from advebm.data.prepared import about, load
    from advebm.evaluation.collapse import collapsed
    from advebm.evaluation.generation import Generator, batched, classes_of
    from advebm.runtime import disk, progress, ranks, tracking
    from advebm.runtime.state import opened

    recipes, spec = config.recipes(entry, method), config.stage_specs(entry, method)["sample"]
    make = Generator.load(model, data, gaussians, recipes, entry["precision"], f"{study}.sampling.{method}")
    pictures, checkpoint, count = out / "pictures", images.digest(model), entry["samples"]
    pictures.mkdir(parents=True, exist_ok=True)
    train = load(data, "train").x

    def drawn(name: str, ids: Tensor) -> dict[str, Tensor]:
        """Images `ids`, and each stage of the first ones."""
        stages = make(recipes[name], name, ids)
        x = stages[recipes[name].stages[-1]]
        if not x.isfinite().all():
            raise ValueError(f"{study}.sampling.{method}.{name}: images are not finite; take smaller steps or noise")
        return {"x": x} | ({stage: x[:STRIP] for stage, x in stages.items()} if ids[0] == 0 else {})

    key = [method, spec, checkpoint, about(data)["sha256"], images.digest(gaussians)]
    known = tracked.params(entry, study, method, "sample", model)
    sending = tracking.run("sample", study, method, params=known, checkpoint=checkpoint, spec=spec)
    with opened("sample", out, key, __name__) as state, sending as run:
        earlier = [strip.name.removesuffix("_strip.png") for strip in pictures.glob("*_strip.png")]
        disk.clear(out, *(f"{name}.npz" for name in earlier), "pictures/*.png")
        for name, recipe in recipes.items():
            bar = progress.bar(f"sample {study}/{method} {name}", quiet)
            found = batched(partial(drawn, name), name, count, part=state.part, progress=bar)
            made = images.Images(found["x"], classes_of(recipe, count, make.classes))
            images.save(out / f"{name}.npz", made)
            for sign in collapsed(made.x, train) if ranks.rank() == 0 else ():
                print(f"advebm: warning: {study}.sampling.{method}.{name}: {sign}", file=sys.stderr)
            title = f"{study} {method}: {name}"
            grid = pictures / f"{name}.png"
            if recipe.asks:
                figures.class_grid(made, grid, title)
            else:
                figures.grid(made.x[:120], grid, title)
            run.artifact(grid, "samples")
            strip = {stage: found[stage] for stage in recipe.stages}
            run.artifact(figures.strip(strip, pictures / f"{name}_strip.png", title), "samples")
    print(f"wrote {out}: {count} images by each of {', '.join(recipes) or 'no recipes'}")
