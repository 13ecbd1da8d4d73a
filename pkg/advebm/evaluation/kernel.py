"""The kernel distance of features (KID if they are Inception's) over all pairs of images, and its standard error.

    MMD^2 = mean_{i != j} k(a_i, a_j) + mean_{i != j} k(b_i, b_j) - 2 mean_{i, j} k(a_i, b_j)

with k(a, b) = (a' b / D + 1)^3, without bias (Binkowski et al. 2018, Eq. 4). Sets with n images of each class have fewer
pairs i != j of one class than independent images, by (n - 1) / n; these pairs count n / (n - 1) times.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from advebm.evaluation import intervals

GROUPS = 10  # of the jackknife: runs of successive images
ROWS = 1000  # of the kernel matrix at a time


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """k(a_i, b_j) of features a (N, D) and b (M, D), (N, M)."""
    return (a @ b.T / a.shape[1] + 1) ** 3


def sums(a: Tensor, b: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of k(a_i, b_j) over each pair of groups, (GROUPS, GROUPS): of images of one class, and of different classes.
    y (N,) and z (M,) are the classes."""
    found = torch.zeros(2, GROUPS, GROUPS, dtype=torch.float64)
    for g, (p, u) in enumerate(zip(a.tensor_split(GROUPS), y.tensor_split(GROUPS), strict=True)):
        for h, (q, v) in enumerate(zip(b.tensor_split(GROUPS), z.tensor_split(GROUPS), strict=True)):
            for rows, classes in zip(p.split(ROWS), u.split(ROWS), strict=True):
                values, same = kernel(rows, q), classes[:, None] == v
                found[0, g, h] += (values * same).sum(dtype=torch.float64).item()
                found[1, g, h] += (values * ~same).sum(dtype=torch.float64).item()
    return found[0], found[1]


@dataclass
class Features:
    """Features z (N, D) of a set, and the sums of the kernel over its pairs i != j, by groups, computed once."""

    z: Tensor
    y: Tensor  # (N,) classes, all 0 if the images have none
    classes: int  # how many there are
    same: Tensor
    different: Tensor

    @classmethod
    def of(cls, z: Tensor, labels: np.ndarray | None) -> "Features":
        """labels: classes, as many images of each; None, or fewer than three of a class: independent images."""
        classes = 1 if labels is None else len(np.unique(labels))
        if labels is None or len(labels) < 3 * classes:
            labels, classes = np.zeros(len(z), np.int64), 1
        y = torch.from_numpy(labels).to(z.device)
        same, different = sums(z, z, y, y)
        itself = torch.stack([kernel(part, part).diagonal().double().sum() for part in z.tensor_split(GROUPS)])
        return cls(z, y, classes, same - itself.cpu().diag(), different)

    @property
    def sizes(self) -> Tensor:
        return torch.tensor([len(part) for part in self.z.tensor_split(GROUPS)], dtype=torch.float64)

    def mean(self, kept: Tensor) -> Tensor:
        """The mean kernel of two images of the kept groups; kept (GROUPS,) is 0 or 1."""
        size = self.sizes @ kept
        n = size / self.classes  # images of a class
        return (n / (n - 1) * (kept @ self.same @ kept) + kept @ self.different @ kept) / size**2


def distance(a: Features, b: Features) -> tuple[float, float]:
    """The distance, and its jackknife standard error, leaving out each group of a and each group of b in turn (Efron 1982,
    Section 3)."""
    cross = sum(sums(a.z, b.z, a.y, b.y))

    def of(p: Tensor, q: Tensor) -> Tensor:
        """The distance of the groups p of a to the groups q of b."""
        return a.mean(p) + b.mean(q) - 2 * (p @ cross @ q) / ((a.sizes @ p) * (b.sizes @ q))

    every, without = torch.ones(GROUPS, dtype=torch.float64), 1 - torch.eye(GROUPS, dtype=torch.float64)
    ends = torch.stack([of(p, every) for p in without]), torch.stack([of(every, q) for q in without])
    variance = sum(map(intervals.jackknife, ends), start=torch.zeros(()))
    return of(every, every).item(), variance.sqrt().item()
