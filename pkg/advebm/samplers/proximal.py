"""The m x n sampler of JEM++: one pass through the body of the network serves n steps of the image."""

from dataclasses import dataclass, replace
from math import ceil
from typing import Protocol

import torch
from torch import Tensor

from advebm.energy import Energy, grad
from advebm.ranges import Count, Positive


class Stem(Protocol):
    """The first layers of a network."""

    affine: bool

    def __call__(self, x: Tensor) -> Tensor: ...


def proximal(
    stem: Stem, energy: Energy, x: Tensor, *, outer: int, inner: int, step_size: float, clamp_grad: float, fused: bool
) -> Tensor:
    """x <- clamp(x - step_size clamp(dE/dx)), m = outer times n = inner (Yang and Ji 2021, Algorithm 1).

    With h = stem(x), p = dE/dh is computed once an outer step; the n inner steps move x by J_stem(x)' p. Where the stem
    is affine J does not depend on x, so the n gradients are equal and `fused` takes them as one step n times as long.
    `energy` is of h, so `marginal(net.body)`; x (B, C, H, W) in [0, 1] and kept there; no noise, as in the released code.
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
    """The numbers of the m x n sampler; see `proximal`."""

    outer: Count  # m
    inner: Count  # n
    step_size: Positive  # of an inner step, on the raw gradient, images in [0, 1]
    clamp_grad: Positive  # on the raw gradient, images in [0, 1]

    def scaled(self, factor: float) -> "Proximal":
        """The same with `factor` times as many steps, rounded up."""
        return replace(self, outer=ceil(factor * self.outer))

    def __call__(self, stem: Stem, energy: Energy, x: Tensor) -> Tensor:
        return proximal(stem, energy, x, fused=stem.affine, **vars(self))
