"""Samplers and attacks, which take an energy and images."""

from typing import Protocol, Self

from torch import Tensor

from advebm.energy import Energy
from advebm.samplers.streams import Streams


class Sampler(Protocol):
    """The parameters of a chain or an ascent, which continues from images x (B, C, H, W) in [0, 1]."""

    def scaled(self, factor: float) -> Self:
        """A copy with `factor` times as many steps, rounded up."""
        ...

    def __call__(self, energy: Energy, x: Tensor, streams: Streams) -> Tensor: ...
