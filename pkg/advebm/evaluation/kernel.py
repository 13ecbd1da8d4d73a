"""The kernel distance of features (KID if they are Inception's) over all pairs of images, and its standard error.

    MMD^2 = mean_{i != j} k(a_i, a_j) + mean_{i != j} k(b_i, b_j) - 2 mean_{i, j} k(a_i, b_j)

with k(a, b) = (a' b / D + 1)^3, without bias (Binkowski et al. 2018, Eq. 4).
"""

import torch
from torch import Tensor

GROUPS = 10  # of the jackknife: runs of successive images
ROWS = 1000  # of the kernel matrix at a time


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """k(a_i, b_j) of features a (N, D) and b (M, D), (N, M)."""
    return (a @ b.T / a.shape[1] + 1) ** 3


def sums(a: Tensor, b: Tensor) -> Tensor:
    """The sums of k(a_i, b_j) over each pair of groups, (GROUPS, GROUPS)."""

    def total(p: Tensor, q: Tensor) -> float:
        return sum(kernel(part, q).sum(dtype=torch.float64).item() for part in p.split(ROWS))

    return torch.tensor(
        [[total(p, q) for q in b.tensor_split(GROUPS)] for p in a.tensor_split(GROUPS)], dtype=torch.float64
    )


def own_sums(a: Tensor) -> Tensor:
    """The sums of k(a_i, a_j) over i != j of each pair of groups, (GROUPS, GROUPS)."""
    same = ((a.square().sum(1) / a.shape[1] + 1) ** 3).double().tensor_split(GROUPS)
    return sums(a, a) - torch.stack([part.sum() for part in same]).cpu().diag()


def distance(a: Tensor, b: Tensor, own_b: Tensor) -> tuple[float, float]:
    """The distance of features a (N, D) to b (M, D), and its jackknife standard error, leaving out each group of a and each
    group of b in turn (Efron 1982, Section 3). own_b: `own_sums` of b, computed once for a reference."""
    n, m = (torch.tensor([len(part) for part in x.tensor_split(GROUPS)], dtype=torch.float64) for x in (a, b))
    own_a, cross = own_sums(a), sums(a, b)

    def of(p: Tensor, q: Tensor) -> Tensor:
        """The distance of the groups p of a to the groups q of b; p, q (GROUPS,) are 0 or 1."""
        size_a, size_b = n @ p, m @ q
        means = p @ own_a @ p / (size_a * (size_a - 1)) + q @ own_b @ q / (size_b * (size_b - 1))
        return means - 2 * (p @ cross @ q) / (size_a * size_b)

    every, without = torch.ones(GROUPS, dtype=torch.float64), 1 - torch.eye(GROUPS, dtype=torch.float64)
    ends = torch.stack([of(p, every) for p in without]), torch.stack([of(every, q) for q in without])
    variance = sum((GROUPS - 1) * values.var(correction=0) for values in ends)
    return of(every, every).item(), float(variance) ** 0.5
