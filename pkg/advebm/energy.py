"""Energies: callables that take images x (B, C, H, W) in [0, 1] and return (B,); low means likely.

With logits f(x) in R^K (Grathwohl et al. 2020, Eq. 5-7):

    E(x, y) = -f(x)[y]        E(x) = -logsumexp_y f(x)[y]        CE(x, y) = -log p(y | x) = E(x, y) - E(x)

A network of one logit has E(x) = -f(x)[0].

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


def unsaturated(f: Logits, y: Tensor) -> Energy:
    """-log p(y | x) = log(1 + sum_{k != y} exp(f(x)[k] - f(x)[y])): as `posterior`, and neither it nor its gradient is lost
    where p(y | x) rounds to 1. What measures an attack or a score goes by this one."""

    def energy(x: Tensor) -> Tensor:
        logits = f(x)
        own = logits.gather(1, y[:, None])
        others = logits.scatter(1, y[:, None], -torch.inf).logsumexp(1)
        return torch.nn.functional.softplus(others - own.squeeze(1))

    return energy


def undecided(f: Logits) -> Energy:
    """-(1/K) sum_y log p(y | x): cross-entropy from the uniform distribution, least where the classifier is undecided."""
    return lambda x: -f(x).log_softmax(1).mean(1)


def unconfident(f: Logits) -> Energy:
    """-max_y log p(y | x): low where the classifier is sure of a class; ranks as the maximal softmax probability does."""

    def energy(x: Tensor) -> Tensor:
        logits = f(x)
        return unsaturated(given(logits), logits.argmax(1))(x)

    return energy


def unlit(f: Logits) -> Energy:
    """-max_y f(x)[y]: low where a logit is high."""
    return lambda x: -f(x).amax(1)


def steepness(f: Logits) -> Energy:
    """The length of dE(x)/dx: low where the density is flat, the approximate mass of Grathwohl et al. 2020 (Eq. 9)."""

    def energy(x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_(True)
            slope = torch.autograd.grad(marginal(f)(x).sum(), x, create_graph=True)[0]
        return slope.flatten(1).norm(dim=1)

    return energy


def binary(f: Logits, *, real: bool) -> Energy:
    """-log D(x), or -log(1 - D(x)) where not `real`; D = sigmoid(-E(x)), which for one logit is sigmoid(f(x)[0])."""
    energy = marginal(f)
    return lambda x: torch.nn.functional.softplus(energy(x) if real else -energy(x))


SCORES = {  # by which out-distribution images are told, low for what is in; with one logit, energy is the logit
    "energy": marginal,
    "max_softmax": unconfident,
    "grad_norm": steepness,
    "logit": unlit,
}


def negative(energy: Energy) -> Energy:
    """-E(x): descending it is ascending E, as an untargeted attack does."""
    return lambda x: -energy(x)


def grad(energy: Energy, x: Tensor) -> Tensor:
    """dE(x)/dx, image by image, shaped as x: of the sum of the batch's energies, which is the same where they do not depend
    on each other. By live batch norm they do, and the gradient is the sum's, as in JEM++'s released code."""
    x = x.detach().requires_grad_(True)
    return torch.autograd.grad(energy(x).sum(), x)[0]
