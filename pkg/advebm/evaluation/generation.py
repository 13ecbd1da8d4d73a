"""Drawing images by recipes, as `sample` writes them and as measurements repeat them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from advebm import networks
from advebm.data import images
from advebm.data.gaussians import Gaussians
from advebm.data.images import Images
from advebm.data.prepared import about
from advebm.networks import Network
from advebm.networks.passes import Passes
from advebm.ranges import Precision
from advebm.runtime.parts import BATCH, SEED, Part, anew, gathered
from advebm.samplers.recipes import Recipe, Starts
from advebm.samplers.streams import Streams


def start_images(gaussians: Gaussians, outliers: Images | None = None) -> Starts:
    """What a recipe may start from, by name. The outliers are shuffled once and repeat where there are too few: without
    noise, equal starts would give equal images."""
    order = None if outliers is None else np.random.default_rng(SEED).permutation(len(outliers.x))

    def drawn(y: Tensor, streams: Streams) -> Tensor:
        assert outliers is not None and order is not None, "no outliers to start from"
        return outliers[order[streams.ids.cpu().numpy() % len(order)]].pixels(y.device)

    return {
        "gaussians": gaussians.sample,
        "uniform": lambda y, streams: streams.uniform(*gaussians.shape),
        "outliers": drawn,
    }


@dataclass(kw_only=True)
class Generator:
    """A network that draws images by recipes: image i is of class i mod K and has a random stream of its own, so it does
    not depend on its company, unless the network samples on the statistics of its batch."""

    net: Network
    starts: Starts
    classes: int  # K
    passes: Passes = field(default_factory=Passes)

    @classmethod
    def load(
        cls,
        model: Path,
        data: Path,
        gaussians: Path,
        recipes: dict[str, Recipe],
        precision: Precision,
        where: str,
    ) -> "Generator":
        """From files. A network whose chains were normalised by the statistics of their batch in training is in training
        mode. Raises ValueError where a recipe follows logits of classes that the network does not have."""
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
        starts = start_images(Gaussians.load(gaussians, device), outliers)
        return cls(net=net, starts=starts, classes=described["classes"], passes=Passes.on(device, precision))

    def __call__(self, draw: Callable[..., dict], name: str, ids: Tensor) -> dict:
        """{key: images `ids` (B, C, H, W)} of what `draw(f, y, starts, streams)` makes for the recipe of that name, such
        as the recipe's stages."""
        together = torch.arange(BATCH, device=ids.device) + ids[0] if self.net.training else ids  # as many in each batch
        with self.passes.sampling(self.net) as f:
            drawn = draw(f, together % self.classes, self.starts, Streams(SEED, "sample", name, ids=together))
        return {key: x[: len(ids)] for key, x in drawn.items()}


def batched(
    draw: Callable[[Tensor], dict[str, Tensor]],
    name: str,
    count: int,
    *,
    part: Part = anew,
    progress: Callable = iter,
) -> dict[str, np.ndarray]:
    """{key: uint8 (N, H, W, C)} of what `draw(ids)` makes of each batch of `count` images, which is a part under that name.
    A key that only the first batch has is of its images alone."""

    def drawn(ids: Tensor) -> dict[str, Tensor]:
        return {key: torch.from_numpy(images.to_bytes(x)) for key, x in draw(ids).items()}

    ids = torch.arange(count, device=networks.device())
    made = gathered({f"{name} from {own[0]}": partial(drawn, own) for own in ids.split(BATCH)}, part, progress)
    return {key: torch.cat([batch[key] for batch in made if key in batch]).numpy() for key in made[0]}


def asked(recipe: Recipe, count: int, classes: int) -> np.ndarray | None:
    """The classes (count,) that images are asked to be of; None where the recipe does not ask."""
    return np.arange(count) % classes if recipe.asks else None
