"""Norms of perturbations d (B, C, H, W): steepest direction, projection onto a ball, random point of the ball.

A norm consists of these three functions, as in foolbox (Rauber et al. 2017).
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from advebm.samplers.streams import Streams


class Norm(Protocol):
    def direction(self, gradient: Tensor) -> Tensor: ...
    def project(self, d: Tensor, eps: float) -> Tensor: ...
    def random_start(self, shape: torch.Size, eps: float, streams: Streams) -> Tensor: ...


class Linf(NamedTuple):
    """max |d|."""

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    def project(self, d: Tensor, eps: float) -> Tensor:
        return d.clamp(-eps, eps)

    def random_start(self, shape: torch.Size, eps: float, streams: Streams) -> Tensor:
        return (2 * streams.uniform(*shape[1:]) - 1) * eps


class L2(NamedTuple):
    """Square root of the sum of squares over C, H, W."""

    @staticmethod
    def _length(d: Tensor) -> Tensor:
        return d.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)

    def direction(self, gradient: Tensor) -> Tensor:
        exponent = gradient.flatten(1).abs().amax(1).frexp().exponent.view(-1, 1, 1, 1)
        scaled = gradient.ldexp((-exponent).clamp(-126, 126))  # exact; squares of tiny gradients would underflow
        return scaled / self._length(scaled)

    def project(self, d: Tensor, eps: float) -> Tensor:
        return d * (eps / self._length(d)).clamp_max(1)

    def random_start(self, shape: torch.Size, eps: float, streams: Streams) -> Tensor:
        direction = streams.normal(*shape[1:])
        radius = streams.uniform(1, 1, 1) ** (1 / shape[1:].numel())
        return direction / self._length(direction) * radius * eps


NORMS: dict[str, Norm] = {"linf": Linf(), "l2": L2()}
