"""Energies: callables that take images x (B, C, H, W) in [0, 1] and return (B,), low for likely images.

With logits f(x) in R^K (Grathwohl et al. 2020, Eq. 5-7):

    E(x, y) = -f(x)[y]        E(x) = -logsumexp_y f(x)[y]        CE(x, y) = -log p(y | x) = E(x, y) - E(x)

A network of one logit has E(x) = -f(x)[0].

The sign of the energy is decided in this file and nowhere else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Concatenate, Generic, ParamSpec

import numpy as np
import torch
from torch import Tensor

Energy = Callable[[Tensor], Tensor]
Logits = Callable[[Tensor], Tensor]
P = ParamSpec("P")


@dataclass(frozen=True)
class NetworkEnergy:
    """The energy of images x under a network f, of(f(x)). A sampler may use the parts of f."""

    f: Any
    of: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        return self.of(self.f(x))


class OfLogits(Generic[P]):
    """An energy defined by its function of the logits (B, K). `marginal(f)` is the energy of images under the network f;
    `marginal.of(logits)` is its values (B,) for given logits, so that several energies share one pass."""

    def __init__(self, of: Callable[Concatenate[Tensor, P], Tensor]):
        self.of, self.__doc__ = of, of.__doc__

    def __call__(self, f: Logits, *args: P.args, **kwargs: P.kwargs) -> Energy:
        return NetworkEnergy(f, lambda logits: self.of(logits, *args, **kwargs))


@OfLogits
def marginal(logits: Tensor) -> Tensor:
    """E(x) = -logsumexp_y f(x)[y]."""
    return -logits.logsumexp(1)


@OfLogits
def conditional(logits: Tensor, y: Tensor) -> Tensor:
    """E(x, y) = -f(x)[y]; y (B,) class indices."""
    return -logits.gather(1, y[:, None]).squeeze(1)


@OfLogits
def posterior(logits: Tensor, y: Tensor) -> Tensor:
    """-log p(y | x) = E(x, y) - E(x): the cross-entropy of each image, unreduced; y (B,) class indices."""
    return torch.nn.functional.cross_entropy(logits, y, reduction="none")


@OfLogits
def unsaturated(logits: Tensor, y: Tensor) -> Tensor:
    """-log p(y | x) = log(1 + sum_{k != y} exp(f(x)[k] - f(x)[y])): `posterior`, but neither the value nor the gradient
    vanishes where p(y | x) rounds to 1. Measurements of attacks and scores use this one."""
    own = logits.gather(1, y[:, None])
    others = logits.scatter(1, y[:, None], -torch.inf).logsumexp(1)
    return torch.nn.functional.softplus(others - own.squeeze(1))


@OfLogits
def undecided(logits: Tensor) -> Tensor:
    """-(1/K) sum_y log p(y | x): cross-entropy from the uniform distribution, least where the classifier is undecided."""
    return -logits.log_softmax(1).mean(1)


@OfLogits
def divergence(logits: Tensor, other: Tensor) -> Tensor:
    """KL(q, p(. | x)) = sum_y q_y log(q_y / p(y | x)), q = softmax(other); other (B, K) logits."""
    q = other.log_softmax(1)
    return (q.exp() * (q - logits.log_softmax(1))).sum(1)


@OfLogits
def unconfident(logits: Tensor) -> Tensor:
    """-max_y log p(y | x): low where the classifier is confident; it ranks images by the maximal softmax probability."""
    return unsaturated.of(logits, logits.argmax(1))


@OfLogits
def unlit(logits: Tensor) -> Tensor:
    """-max_y f(x)[y]: low where a logit is high."""
    return -logits.amax(1)


@OfLogits
def binary(logits: Tensor, *, real: bool) -> Tensor:
    """-log D(x) if `real`, else -log(1 - D(x)); D = sigmoid(-E(x)), which for one logit is sigmoid(f(x)[0])."""
    energy = marginal.of(logits)
    return torch.nn.functional.softplus(energy if real else -energy)


def steepness(f: Logits) -> Energy:
    """The length of dE(x)/dx, low where the density is flat: minus the approximate mass (Grathwohl et al. 2020, Eq. 9)."""

    def energy(x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_(True)
            slope = torch.autograd.grad(marginal(f)(x).sum(), x, create_graph=True)[0]
        return slope.flatten(1).norm(dim=1)

    return energy


# energies that detect out-distribution images, low for in-distribution; for one logit `energy` and `logit` are equal
SCORES: dict[str, Callable[[Logits], Energy]] = {
    "energy": marginal,
    "max_softmax": unconfident,
    "grad_norm": steepness,
    "logit": unlit,
}


# what an attack on a score descends towards class y: its least value over y is the score, or for `energy` just above it
CLASS_SCORES: dict[str, Callable[[Logits, Tensor], Energy]] = {
    "energy": conditional,
    "max_softmax": unsaturated,
    "logit": conditional,
}


@torch.no_grad()
def scores(energy: Energy, x: Tensor, batch: int) -> np.ndarray:
    """-E(x), (N,): high is in-distribution. Raises ValueError where one is not finite."""
    found = -torch.cat([energy(part).detach() for part in x.split(batch)]).double().cpu()
    if not found.isfinite().all():
        raise ValueError("a score is not finite: the network has diverged")
    return found.numpy()


def passing(scores: np.ndarray) -> float:
    """The highest threshold that 95% of these scores (N,) reach."""
    return float(np.sort(scores)[len(scores) - int(np.ceil(0.95 * len(scores)))])


def negative(energy: Energy) -> Energy:
    """-E(x): its descent is the ascent of E, an untargeted attack."""
    return lambda x: -energy(x)


def grad(energy: Energy, x: Tensor) -> Tensor:
    """dE(x)/dx, shaped as x: the gradient of the sum of the batch's energies. Under live batch norm each energy depends on
    the whole batch, and the gradient is still that of the sum, as in JEM++'s released code."""
    return evaluated(energy, x)[1]


def evaluated(energy: Energy, x: Tensor) -> tuple[Tensor, Tensor]:
    """E(x) (B,) and `grad(energy, x)`, by one pass."""
    x = x.detach().requires_grad_(True)
    e = energy(x)
    return e.detach(), torch.autograd.grad(e.sum(), x)[0]
