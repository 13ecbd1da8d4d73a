"""Stochastic gradient Langevin dynamics."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil
from typing import Annotated, Any

from annotated_types import Ge, Lt
from torch import Tensor

from advebm.energy import Energy, grad
from advebm.ranges import NonNegative, Positive, Steps
from advebm.samplers.norms import NORMS
from advebm.samplers.streams import Streams

DRAWN = 8  # steps whose noise is drawn at once, with equal numbers and fewer kernels; on a CPU for small batches only
LAMBDA = 1e-5  # of the preconditioner (Li et al. 2016)


def langevin(
    energy: Energy,
    x: Tensor,
    *,
    steps: int,
    step_size: float,
    noise: float,
    noise_last: float | None = None,
    clamp_grad: float | None = None,
    clip: bool = False,
    normalised: bool = False,
    precondition: float | None = None,
    momentum: float = 0.0,
    streams: Streams | None = None,
) -> Iterator[Tensor]:
    """x <- x - step_size dE/dx + noise N(0, I), `steps` times (Welling and Teh 2011; Grathwohl et al. 2020, Eq. 2); the
    images after each step.

    With step_size = a/2 and noise = sqrt(a) this is Langevin dynamics at temperature 1; energy-based models choose both
    freely. x (B, C, H, W) may leave [0, 1] unless `clip`; `clamp_grad` bounds each entry of the gradient; `streams` may be
    None if noise is 0. The gradient may be changed further, in this order:

    - `normalised`: divided by its L2 norm, so that without noise each image moves by the length step_size;
    - `precondition` is alpha of pSGLD (Li et al. 2016, Algorithm 1): x <- x - step_size G dE/dx + noise sqrt(G) N(0, I),
      G = 1 / (lambda + sqrt(V)), with V the running mean of the squared gradient, of each pixel of each image. As in the
      paper's practice the term Gamma, the derivative of G, is left out. V is divided by 1 - alpha^k (Kingma and Ba 2015):
      as it starts from 0, the first step would otherwise be 1 / sqrt(1 - alpha) times as long;
    - `momentum`: v <- momentum v + dE/dx replaces it (Mirza et al. 2024).

    With `noise_last` the noise falls over the chain, geometrically, as the levels of Song and Ermon 2019, whose
    steps shorten too.
    """
    at_once = DRAWN if x.is_cuda else max(1, min(DRAWN, 2**18 // x.numel()))
    v: Tensor | float = 0.0
    V: Tensor | float = 0.0
    for step in range(steps):
        g = grad(energy, x)
        if clamp_grad is not None:
            g = g.clamp(-clamp_grad, clamp_grad)
        if normalised:
            g = NORMS["l2"].direction(g)
        if precondition is not None:
            V = precondition * V + (1 - precondition) * g.square()
            G = 1 / (LAMBDA + (V / (1 - precondition ** (step + 1))).sqrt())
            g = G * g
        if momentum:
            g = v = momentum * v + g
        x = x - step_size * g
        if noise:
            if step % at_once == 0:
                assert streams is not None, "noise needs streams"
                drawn = streams.normal(min(at_once, steps - step), *x.shape[1:])
            n = drawn[:, step % at_once]
            level = noise if noise_last is None else noise * (noise_last / noise) ** (step / max(steps - 1, 1))
            x = x + level * (n if precondition is None else G.sqrt() * n)
        if clip:
            x = x.clamp(0, 1)
        yield x


def sgld(energy: Energy, x: Tensor, **numbers: Any) -> Tensor:
    """The images at the end of the chain `langevin`."""
    for moved in langevin(energy, x, **numbers):
        x = moved
    return x


@dataclass(kw_only=True)
class Langevin:
    """The parameters of a Langevin chain; see `langevin`."""

    steps: Steps
    step_size: Positive  # times the gradient, images in [0, 1]; if `normalised` an L2 length
    noise: NonNegative  # standard deviation, images in [0, 1]
    noise_last: Positive | None = None  # of the last step; null: as of the first
    clamp_grad: Positive | None = None
    clip: bool = False
    normalised: bool = False
    precondition: Annotated[float, Ge(0), Lt(1)] | None = None  # .99 in the paper
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.0

    def __post_init__(self) -> None:
        if self.normalised and self.precondition is not None:
            raise ValueError("normalised: must be false with precondition, as each sets the length of a step by itself")
        if self.noise_last is not None and self.noise_last > self.noise:
            raise ValueError(f"noise_last: must be at most noise, {self.noise}, as the noise falls, not {self.noise_last}")

    def scaled(self, factor: float) -> "Langevin":
        """A copy with `factor` times as many steps, rounded up."""
        return replace(self, steps=ceil(factor * self.steps))

    def each(self, energy: Energy, x: Tensor, streams: Streams | None = None) -> Iterator[Tensor]:
        """The images after each step."""
        return langevin(energy, x, streams=streams, **vars(self))

    def __call__(self, energy: Energy, x: Tensor, streams: Streams | None = None) -> Tensor:
        return sgld(energy, x, streams=streams, **vars(self))
