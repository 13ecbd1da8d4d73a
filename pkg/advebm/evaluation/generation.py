"""Generating images by recipes, for `sample` and for measurements that repeat its samples."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from advebm import networks
from advebm.data import images, prepared
from advebm.data.gaussians import Gaussians
from advebm.data.images import Images
from advebm.networks import Network
from advebm.networks.passes import Passes
from advebm.ranges import Precision
from advebm.runtime.parts import BATCH, SEED, Part, anew, gathered
from advebm.samplers.recipes import Recipe, Starts
from advebm.samplers.streams import Streams


def start_images(gaussians: Gaussians, outliers: Images | None = None) -> Starts:
    """The starts of recipes, by name. Outliers are shuffled once and repeat only where there are too few: without noise,
    equal starts give equal images."""
    leading = cache(lambda: gaussians.leading())
    order = None if outliers is None else np.random.default_rng(SEED).permutation(len(outliers.x))

    def drawn(y: Tensor, streams: Streams) -> Tensor:
        assert outliers is not None and order is not None, "no outliers to start from"
        return outliers[order[streams.ids.cpu().numpy() % len(order)]].pixels(y.device)

    return {
        "gaussians": gaussians.sample,
        "pca": lambda y, streams, *temperature: leading().sample(y, streams, *temperature),
        "uniform": lambda y, streams: streams.uniform(*gaussians.shape),
        "outliers": drawn,
    }


@dataclass(kw_only=True)
class Generator:
    """A network that generates images by recipes. Image i has class i mod K and its own random stream, so it does not
    depend on the rest of its batch, unless the network samples on batch statistics."""

    net: Network
    starts: Starts
    classes: int  # K
    passes: Passes = field(default_factory=Passes)
    y: Tensor | None = None  # the classes that images cycle through instead of 0 to K - 1
    seed: int = SEED

    @classmethod
    def load(
        cls, model: Path, data: Path, gaussians: Path, recipes: dict[str, Recipe], precision: Precision, where: str
    ) -> "Generator":
        """Load from files. A network that was trained with chains on batch statistics is put in training mode. Raises
        ValueError where a recipe needs class logits that the network does not have."""
        described, device = prepared.about(data), networks.device()
        net, header = networks.load(model, device, about=described)
        net.train(header.get("statistics") == "batch")
        for name, recipe in recipes.items():
            check_guided(recipe, net, described["classes"], f"{where}.{name}")
        outliers = prepared.load(data, "outliers") if any(r.start == "outliers" for r in recipes.values()) else None
        starts = start_images(Gaussians.load(gaussians, device, about=described), outliers)
        return cls(net=net, starts=starts, classes=described["classes"], passes=Passes.on(device, precision))

    def __call__(self, draw: Callable[..., dict], name: str, ids: Tensor) -> dict:
        """{key: images `ids` (B, C, H, W)} that `draw(f, y, starts, streams)` returns, such as the stages of a recipe;
        `name` is that of the recipe and selects the streams."""
        batch = torch.arange(BATCH, device=ids.device) + ids[0] if self.net.training else ids
        with self.passes.sampling(self.net) as f:
            y = batch % self.classes if self.y is None else self.y[batch % len(self.y)]
            drawn = draw(f, y, self.starts, Streams(self.seed, "sample", name, ids=batch))
        return {key: x[: len(ids)] for key, x in drawn.items()}


def check_guided(recipe: Recipe, net: Network, classes: int, where: str) -> None:
    """Raises ValueError where a recipe needs class logits that the network does not have."""
    if recipe.guided and net.outputs != classes:
        raise ValueError(
            f"{where}: needs the logits of {classes} classes, but the network has {net.outputs}; use sgld (conditional: "
            "false), ascent or draw"
        )


def batched(
    draw: Callable[[Tensor], dict[str, Tensor]], name: str, count: int, *, part: Part = anew, progress: Callable = iter
) -> dict[str, np.ndarray]:
    """{key: uint8 (N, H, W, C)} that `draw(ids)` returns for `count` images in batches; each batch is a part, under `name`.
    A key that only the first batch has covers that batch."""

    def drawn(ids: Tensor) -> dict[str, Tensor]:
        return {key: torch.from_numpy(images.to_bytes(x)) for key, x in draw(ids).items()}

    ids = torch.arange(count, device=networks.device())
    made = gathered({f"{name} from {own[0]}": partial(drawn, own) for own in ids.split(BATCH)}, part, progress)
    return {key: torch.cat([batch[key] for batch in made if key in batch]).numpy() for key in made[0]}


def classes_of(recipe: Recipe, count: int, classes: int) -> np.ndarray | None:
    """The classes (count,) that images are generated for; None where the recipe is not conditional on a class."""
    return np.arange(count) % classes if recipe.asks else None
