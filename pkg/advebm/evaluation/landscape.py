"""The energy around real images, on random planes."""

from collections.abc import Callable
from dataclasses import dataclass
from math import pi
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from advebm.data.images import Images
from advebm.energy import conditional, marginal
from advebm.evaluation import intervals
from advebm.evaluation.result import Interval, Result
from advebm.evaluation.subject import Subject
from advebm.networks import Network, frozen
from advebm.networks.passes import convolving
from advebm.ranges import Count, Positive, Several
from advebm.runtime.parts import BATCH, SEED, Part
from advebm.samplers.streams import Streams

ANGLES = 64  # points of the circle
PICTURED = 4  # images whose plane is drawn


@dataclass(kw_only=True)
class Landscape:
    """A plane through each of the first images of the split; drawn: |coordinate| <= radius, `points` per side."""

    images: Several = 100
    radius: Positive  # L2 length, images in [0, 1]
    points: Count = 21
    split: Literal["validation", "test"] = "test"

    def measure(self, subject: Subject, part: Part) -> "tuple[LandscapeResult, Surfaces]":
        images, net = subject.images(self.split), subject.net
        result, energies = landscape(net, images, self, seed=SEED, progress=subject.bar("landscape"))
        return result, Surfaces(images.x[: len(energies)], energies, "E(x, y)" if net.outputs > 1 else "E(x)")


@dataclass(kw_only=True)
class LandscapeResult(Result):
    radius: float
    images: int
    rise: float  # mean over the circle of that radius and over images
    rise_ci: Interval | None = None  # over images and their planes


class Surfaces(NamedTuple):
    """The data of a landscape's picture."""

    x: np.ndarray  # uint8 (images, H, W, C)
    energies: np.ndarray  # (PICTURED, points, points)
    energy: str  # its name, E(x, y) or E(x)


def plane(shape: tuple[int, ...], streams: Streams) -> Tensor:
    """Two orthonormal directions for each stream, (B, 2, D), of a uniformly distributed plane: QR of a normal matrix."""
    return torch.linalg.qr(streams.normal(2, torch.Size(shape).numel()).mT).Q.mT


@convolving("fp32")
def landscape(
    net: Network, images: Images, spec: Landscape, *, seed: int, batch: int = BATCH, progress: Callable = iter
) -> tuple[LandscapeResult, np.ndarray]:
    """The result, and the energies (PICTURED, points, points) at x + a u + b v minus that of the image x (Zhu et al. 2021,
    Fig. 2). Rows are a, columns b, from -radius to radius. The energy is E(x, y), y the class of x, or E(x) where the
    network has no class logits.

    rise is the mean difference on the circle |(a, b)| = radius, over images. Points of the plane are not clamped to [0, 1],
    which would bend it. The network is used in evaluation mode.
    """
    images, device = images[: spec.images], next(net.parameters()).device
    x, y = images.pixels(device), images.labels(device)
    directions = plane(x.shape[1:], Streams(seed, "landscape", ids=torch.arange(len(x), device=device)))
    side = torch.linspace(-spec.radius, spec.radius, spec.points, device=device)
    angle = 2 * pi * torch.arange(ANGLES, device=device) / ANGLES
    circle = spec.radius * torch.stack([angle.cos(), angle.sin()], 1)
    origin = circle.new_zeros(1, 2)
    square = torch.cartesian_prod(side, side)

    @torch.no_grad()
    def energies(i: int) -> Tensor:
        places = torch.cat([origin, circle, square]) if i < PICTURED else torch.cat([origin, circle])
        around = x[i] + (places @ directions[i]).view(-1, *x.shape[1:])
        parts = around.split(batch)
        return torch.cat([(conditional(net, y[i].expand(len(p))) if net.outputs > 1 else marginal(net))(p) for p in parts])

    with frozen(net):
        found = [energies(i).double().cpu() for i in progress(range(len(x)))]
    rises = torch.stack([(e[1 : ANGLES + 1] - e[0]).mean() for e in found])
    surface = torch.stack([e[ANGLES + 1 :] - e[0] for e in found[:PICTURED]])
    result = LandscapeResult(
        radius=spec.radius, images=len(x), rise=rises.mean().item(), rise_ci=intervals.mean(rises.numpy())
    )
    return result, surface.view(-1, spec.points, spec.points).numpy()
