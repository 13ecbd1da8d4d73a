"""Stochastic gradient Langevin dynamics."""

from dataclasses import dataclass, replace
from math import ceil
from typing import Annotated

from annotated_types import Ge, Lt
from torch import Tensor

from advebm.energy import Energy, grad
from advebm.ranges import NonNegative, Positive, Steps
from advebm.samplers.streams import Streams

DRAWN = 8  # steps whose noise is drawn at once, with equal numbers and fewer kernels; on a CPU for small batches only


def sgld(
    energy: Energy,
    x: Tensor,
    *,
    steps: int,
    step_size: float,
    noise: float,
    clamp_grad: float | None = None,
    clip: bool = False,
    momentum: float = 0.0,
    streams: Streams | None = None,
) -> Tensor:
    """x <- x - step_size dE/dx + noise N(0, I), `steps` times (Welling and Teh 2011; Grathwohl et al. 2020, Eq. 2).

    With step_size = a/2 and noise = sqrt(a) this is Langevin dynamics at temperature 1; energy-based models choose both
    freely. x (B, C, H, W) may leave [0, 1] unless `clip`; `clamp_grad` bounds each entry of the gradient; `streams` may be
    None if noise is 0. With `momentum` v <- momentum v + dE/dx replaces the gradient (Mirza et al. 2024).
    """
    at_once = DRAWN if x.is_cuda else max(1, min(DRAWN, 2**18 // x.numel()))
    v: Tensor | float = 0.0
    for step in range(steps):
        g = grad(energy, x)
        if clamp_grad is not None:
            g = g.clamp(-clamp_grad, clamp_grad)
        if momentum:
            g = v = momentum * v + g
        x = x - step_size * g
        if noise:
            if step % at_once == 0:
                assert streams is not None, "noise needs streams"
                drawn = streams.normal(min(at_once, steps - step), *x.shape[1:])
            x = x + noise * drawn[:, step % at_once]
        if clip:
            x = x.clamp(0, 1)
    return x


@dataclass(kw_only=True)
class Langevin:
    """The parameters of a Langevin chain; see `sgld`."""

    steps: Steps
    step_size: Positive  # times the gradient, images in [0, 1]
    noise: NonNegative  # standard deviation, images in [0, 1]
    clamp_grad: Positive | None = None
    clip: bool = False
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.0

    def scaled(self, factor: float) -> "Langevin":
        """A copy with `factor` times as many steps, rounded up."""
        return replace(self, steps=ceil(factor * self.steps))

    def __call__(self, energy: Energy, x: Tensor, streams: Streams | None = None) -> Tensor:
        return sgld(energy, x, streams=streams, **vars(self))
