"""The Frechet distance of Gaussians fitted to features (FID if they are Inception's), and its standard error.

    d^2 = |m_a - m_b|^2 + tr A + tr B - 2 tr (A B)^(1/2)        (Heusel et al. 2017, Eq. 6)

With A = R' R, R (r, D), the nonzero eigenvalues of A B are those of the symmetric matrix R B R'. So the last term is twice
the sum of the square roots of r eigenvalues.
"""

from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor

from advebm.evaluation import intervals


class Gaussian:
    """Mean (D,), covariance (D, D) and its root R (r, D), R' R = covariance, in float64. Either the covariance or the root
    is given; the other is computed once, on first use."""

    def __init__(self, mean: Tensor, *, covariance: Tensor | None = None, root: Tensor | None = None):
        self.mean = mean
        if root is None:
            assert covariance is not None, "a covariance or a root is needed"
            self.covariance, self.rank, self.trace = covariance, len(mean), covariance.trace()
        else:
            self.root, self.rank, self.trace = root, len(root), root.square().sum()

    @cached_property
    def covariance(self) -> Tensor:
        return self.root.T @ self.root

    @cached_property
    def root(self) -> Tensor:
        values, vectors = torch.linalg.eigh(self.covariance)
        return values.clamp(min=0).sqrt()[:, None] * vectors.T


def fitted(z: Tensor) -> Gaussian:
    """The Gaussian of features z (N, D), computed on their device. For N < D the centred features, scaled, are its root."""
    z = z.double()
    mean = z.mean(0)
    z = (z - mean) / (len(z) - 1) ** 0.5
    return Gaussian(mean, root=z) if len(z) < z.shape[1] else Gaussian(mean, covariance=z.T @ z)


def distance(a: Gaussian, b: Gaussian) -> float:
    """The squared Frechet distance of two Gaussians. It uses the root of the one of lower rank, or of b if the ranks are
    equal, so that a reference b is factored only once."""
    fewer, other = (a, b) if a.rank < b.rank else (b, a)
    product = fewer.root @ other.covariance @ fewer.root.T
    shared = torch.linalg.eigvalsh(product).clamp(min=0).sqrt().sum()
    return ((a.mean - b.mean).square().sum() + a.trace + b.trace - 2 * shared).item()


def frechet(a: Tensor, b: Tensor) -> float:
    """The squared Frechet distance of features a (N, D), b (M, D)."""
    return distance(fitted(a), fitted(b))


def jackknife(a: Tensor, b: Gaussian, groups: int = 10) -> float:
    """Jackknife standard error of the distance of features a (N, D) to a fixed b, leaving out each group of a's images in
    turn (Efron 1982, Section 3). A group is a run of successive images: it is balanced if classes cycle, as in samples."""
    values = torch.tensor([distance(rest, b) for rest in without_each(a, groups)])
    return intervals.jackknife(values).sqrt().item()


def without_each(a: Tensor, groups: int) -> Iterator[Gaussian]:
    """Gaussians fitted to the features a (N, D) without each of the groups in turn. For N > D the sums over the group are
    subtracted from those over all images; for fewer images refitting is as fast."""
    group = (torch.arange(len(a)) * groups // len(a)).to(a.device)
    if len(a) <= a.shape[1]:
        yield from (fitted(a[group != g]) for g in range(groups))
        return
    origin = a.double().mean(0)
    parts = [a[group == g].double() - origin for g in range(groups)]
    sums, squares = torch.stack([z.sum(0) for z in parts]), [z.T @ z for z in parts]
    all_squares = sum(squares)
    for g in range(groups):
        n, total = len(a) - len(parts[g]), -sums[g]  # the sum over all is zero
        covariance = (all_squares - squares[g] - torch.outer(total, total) / n) / (n - 1)
        yield Gaussian(origin + total / n, covariance=covariance)
