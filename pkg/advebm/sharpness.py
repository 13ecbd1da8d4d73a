"""Sharpness-aware minimisation: any method, by either optimiser."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from advebm.ranges import Positive


@dataclass(kw_only=True)
class SAM:
    """The optimiser's step from w is by the gradient of the loss at w + e (Foret et al. 2021, Eq. 2 and Algorithm 1),

        e = argmax L(w) + e . g over |e / T| <= rho = rho T^2 g / |T g|,    g = dL(w)/dw,

    with T = 1, or if `adaptive` with T = |w|, entry by entry, which the scale of the weights does not change (ASAM, Kwon et
    al. 2021, Eq. 8; without their eta, as Yang et al. 2023 released it). The norm is over all weights together.
    """

    rho: Positive
    adaptive: bool = False

    @contextmanager
    def climbed(self, weights: Iterable[Tensor]) -> Iterator[None]:
        """In this block the weights, whose .grad is g, are w + e; afterwards they are w, bit by bit."""
        own = [(w, w.detach().clone(), w.grad) for w in weights if w.grad is not None]
        scales = [before.abs() if self.adaptive else torch.ones_like(before) for _, before, _ in own]
        norms = [(t * g).norm() for t, (_, _, g) in zip(scales, own, strict=True)]
        length = torch.stack(norms).norm().clamp_min(1e-12)
        with torch.no_grad():
            for t, (w, _, g) in zip(scales, own, strict=True):
                w.add_(self.rho * t**2 * g / length)
        try:
            yield
        finally:
            with torch.no_grad():
                for w, before, _ in own:
                    w.copy_(before)
