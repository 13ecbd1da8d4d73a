"""The kernel distance of features (KID if they are Inception's) over all pairs of images, and its standard error.

    MMD^2 = mean_{i != j} k(a_i, a_j) + mean_{i != j} k(b_i, b_j) - 2 mean_{i, j} k(a_i, b_j)

with k(a, b) = (a' b / D + 1)^3, without bias (Binkowski et al. 2018, Eq. 4).
"""

import torch
from torch import Tensor

ROWS = 1000  # of the kernel matrix at a time


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """k(a_i, b_j) of features a (N, D) and b (M, D), (N, M)."""
    return (a @ b.T / a.shape[1] + 1) ** 3


def total(a: Tensor, b: Tensor) -> float:
    """The sum of k(a_i, b_j) over all pairs."""
    return sum(kernel(part, b).sum(dtype=torch.float64).item() for part in a.split(ROWS))


def diagonal(a: Tensor) -> float:
    """The sum of k(a_i, a_i)."""
    return ((a.square().sum(1) / a.shape[1] + 1) ** 3).sum(dtype=torch.float64).item()


def similarity(b: Tensor) -> float:
    """The mean of k(b_i, b_j) over i != j."""
    return (total(b, b) - diagonal(b)) / (len(b) * (len(b) - 1))


def distance(a: Tensor, b: Tensor, similarity_b: float, groups: int = 10) -> tuple[float, float]:
    """The distance of features a (N, D) to b (M, D), and its jackknife standard error for a fixed b, leaving out each group
    of successive images of a in turn, as in `frechet.jackknife`. similarity_b: that of b, computed once."""
    parts = a.tensor_split(groups)
    size = torch.tensor([len(part) for part in parts], dtype=torch.float64)
    own = torch.tensor([[total(p, q) for q in parts] for p in parts], dtype=torch.float64)
    own -= torch.tensor([diagonal(part) for part in parts], dtype=torch.float64).diag()
    cross = torch.tensor([total(part, b) for part in parts], dtype=torch.float64)

    def of(kept: Tensor) -> Tensor:
        """The distance of the groups that are kept."""
        n = size[kept].sum()
        return own[kept][:, kept].sum() / (n * (n - 1)) + similarity_b - 2 * cross[kept].sum() / (n * len(b))

    without = torch.stack([of(torch.arange(groups) != g) for g in range(groups)])
    error = ((groups - 1) * without.var(correction=0)).sqrt()
    return of(torch.ones(groups, dtype=torch.bool)).item(), error.item()
