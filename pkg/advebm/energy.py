"""Energies: callables that take images x (B, C, H, W) in [0, 1] and return (B,); low means likely.

With logits f(x) in R^K (Grathwohl et al. 2020, Eq. 5-7):

    E(x, y) = -f(x)[y]        E(x) = -logsumexp_y f(x)[y]        CE(x, y) = -log p(y | x) = E(x, y) - E(x)

The sign of the energy is decided in this file and nowhere else.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Energy = Callable[[Tensor], Tensor]
Logits = Callable[[Tensor], Tensor]


def given(logits: Tensor) -> Logits:
    """f(x) already computed, (B, K), so that several energies share one pass through the network."""
    return lambda x: logits


def marginal(f: Logits) -> Energy:
    """E(x) = -logsumexp_y f(x)[y]."""
    return lambda x: -f(x).logsumexp(1)


def conditional(f: Logits, y: Tensor) -> Energy:
    """E(x, y) = -f(x)[y]; y (B,) class indices."""
    return lambda x: -f(x).gather(1, y[:, None]).squeeze(1)


def posterior(f: Logits, y: Tensor) -> Energy:
    """-log p(y | x) = E(x, y) - E(x): the cross-entropy of each image, unreduced; y (B,) class indices."""
    return lambda x: torch.nn.functional.cross_entropy(f(x), y, reduction="none")


def negative(energy: Energy) -> Energy:
    """-E(x): descending it is ascending E, as an untargeted attack does."""
    return lambda x: -energy(x)


def grad(energy: Energy, x: Tensor) -> Tensor:
    """dE(x)/dx, image by image, shaped as x. The energies of a batch must not depend on each other."""
    x = x.detach().requires_grad_(True)
    return torch.autograd.grad(energy(x).sum(), x)[0]
