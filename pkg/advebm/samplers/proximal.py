"""The m x n sampler of JEM++: n steps of the image for one pass through the network's body."""

from dataclasses import dataclass, replace
from math import ceil
from typing import Protocol

import torch
from torch import Tensor

from advebm.energy import Energy, NetworkEnergy, grad
from advebm.ranges import Count, Positive
from advebm.samplers.streams import Streams


class Stem(Protocol):
    """The first layers of a network; affine: whether they are an affine function of the image."""

    affine: bool

    def __call__(self, x: Tensor) -> Tensor: ...


def proximal(
    stem: Stem, energy: Energy, x: Tensor, *, outer: int, inner: int, step_size: float, clamp_grad: float, fused: bool
) -> Tensor:
    """x <- clamp(x - step_size clamp(dE/dx)), m = outer times n = inner (Yang and Ji 2021, Algorithm 1).

    With h = stem(x), p = dE/dh is computed once per outer step; the n inner steps move x by J_stem(x)' p. If the stem is
    affine, J does not depend on x: the n gradients are equal, and `fused` takes one step n times as long instead.
    `energy` is a function of h, such as `marginal(net.body)`; x (B, C, H, W) stays in [0, 1]; no noise, as in the released
    code.
    """
    for _ in range(outer):
        if fused:
            g = grad(lambda v: energy(stem(v)), x).clamp(-clamp_grad, clamp_grad)
            x = (x - inner * step_size * g).clamp(0, 1)
            continue
        p = grad(energy, stem(x))
        for _ in range(inner):
            v = x.detach().requires_grad_(True)
            g = torch.autograd.grad((stem(v) * p).sum(), v)[0].clamp(-clamp_grad, clamp_grad)
            x = (x - step_size * g).clamp(0, 1)
    return x


@dataclass(kw_only=True)
class Proximal:
    """The parameters of the m x n sampler; see `proximal`."""

    outer: Count  # m
    inner: Count  # n
    step_size: Positive  # of an inner step, times the gradient, images in [0, 1]
    clamp_grad: Positive  # bound of each entry of the gradient, images in [0, 1]

    def scaled(self, factor: float) -> "Proximal":
        """A copy with `factor` times as many outer steps, rounded up."""
        return replace(self, outer=ceil(factor * self.outer))

    def __call__(self, energy: Energy, x: Tensor, streams: Streams | None = None) -> Tensor:
        assert isinstance(energy, NetworkEnergy), "the m x n sampler needs the network's stem and body"
        stem, of_body = energy.f.stem, replace(energy, f=energy.f.body)
        return proximal(stem, of_body, x, fused=stem.affine, **vars(self))
