"""Projected gradient descent: attacks, and the ascent of AT-EBM."""

from dataclasses import dataclass, replace
from math import ceil, cos, inf, pi
from typing import Literal

import torch
from torch import Tensor

from advebm.energy import Energy, evaluated
from advebm.ranges import Count, Fraction, NonNegative, Positive, Steps
from advebm.samplers.norms import NORMS
from advebm.samplers.streams import Streams


def pgd(
    energy: Energy,
    x: Tensor,
    *,
    steps: int,
    step_size: float,
    eps: float = inf,
    norm: str = "l2",
    random_start: bool = False,
    momentum: float = 0.0,
    best: bool = False,
    annealed: bool = False,
    start: Tensor | None = None,
    streams: Streams | None = None,
) -> Tensor:
    """Descend `energy` from x within the ball of radius eps and [0, 1] (Madry et al. 2018, Eq. 2.2).

    Returns x + d after d <- project(d - step_size direction(dE/dx)), `steps` times; the direction is the gradient's sign
    (linf) or the gradient divided by its length (l2). x (B, C, H, W) in [0, 1]; radii and steps in that unit.

    With `momentum` the direction is that of v <- momentum v + (dE/dx) / |dE/dx|_1 (Dong et al. 2018, Eq. 6). `best` returns
    the point of lowest energy of each image, of the start and all steps, instead of the last (Augustin et al. 2020, as
    released). `annealed` steps shorten as (1 + cos(pi k / steps)) / 2, k = 0, 1, ... (Loshchilov and Hutter 2017, Eq. 5).
    `start` is where to begin instead of x.
    """
    ball = NORMS[norm]
    origin, d, v = x, x.new_zeros(x.shape), x.new_zeros(x.shape)
    x_best, e_best = x, x.new_full((len(x),), inf)
    if random_start:
        assert streams is not None, "a random start needs streams"
        d = ball.random_start(x.shape, eps, streams)
    if start is not None:
        d = ball.project(start - origin, eps)
    for k in range(steps):
        x = (origin + d).clamp(0, 1)
        e, g = evaluated(energy, x)
        if best:
            x_best, e_best = lower(x, e, x_best, e_best)
        if momentum:
            g = v = momentum * v + g / g.abs().sum((1, 2, 3), keepdim=True).clamp_min(1e-30)
        length = step_size * (1 + cos(pi * k / steps)) / 2 if annealed else step_size
        d = ball.project(x - length * ball.direction(g) - origin, eps)
    x = (origin + d).clamp(0, 1)
    if not best:
        return x
    with torch.no_grad():
        return lower(x, energy(x), x_best, e_best)[0]


def lower(x: Tensor, e: Tensor, x_best: Tensor, e_best: Tensor) -> tuple[Tensor, Tensor]:
    """Of each pair of images, x or x_best, the one of lower energy, and that energy (B,)."""
    better = e < e_best
    return torch.where(better.view(-1, 1, 1, 1), x, x_best), torch.where(better, e, e_best)


@dataclass(kw_only=True)
class Ascent:
    """AT-EBM's sampler: ascent of -E(x) in [0, 1] by steps of fixed L2 length (Yin, Li and Rohde 2022, Algorithm 1)."""

    steps: Steps  # K
    step_size: Positive  # L2 length, images in [0, 1]
    eps: Positive | None = None  # L2 radius around the start, as for detection (Table 4); null: unbounded

    def scaled(self, factor: float) -> "Ascent":
        """A copy with `factor` times as many steps, rounded up."""
        return replace(self, steps=ceil(factor * self.steps))

    def __call__(self, energy: Energy, x: Tensor, streams: Streams | None = None) -> Tensor:
        return pgd(energy, x, steps=self.steps, step_size=self.step_size, eps=inf if self.eps is None else self.eps)


@dataclass(kw_only=True)
class Attack:
    """The parameters of an attack; see `pgd`. step_size is by default 2.5 eps / steps (Madry et al. 2018)."""

    eps: NonNegative  # radius, images in [0, 1]
    steps: Count
    step_size: Positive | None = None
    norm: Literal["linf", "l2"] = "linf"
    random_start: bool = True
    momentum: Fraction = 0.0  # of the gradients
    best: bool = False  # return the best point of all steps, not the last

    def __call__(self, energy: Energy, x: Tensor, streams: Streams | None = None) -> Tensor:
        step_size = 2.5 * self.eps / self.steps if self.step_size is None else self.step_size
        numbers = {name: getattr(self, name) for name in ("eps", "steps", "norm", "random_start", "momentum", "best")}
        return pgd(energy, x, step_size=step_size, streams=streams, **numbers)
