"""95% confidence intervals of estimates from images."""

from math import sqrt

import numpy as np
from scipy.special import ndtri, stdtrit
from torch import Tensor

Z = float(ndtri(0.975))


def proportion(p: float, n: float) -> list[float]:
    """Wilson's interval of a proportion p of n (Wilson 1927); its length is not 0 at p = 0 and 1."""
    middle, half = p + Z * Z / (2 * n), Z * sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    return [max((middle - half) / (1 + Z * Z / n), 0.0), min((middle + half) / (1 + Z * Z / n), 1.0)]


def jackknife(values: Tensor) -> Tensor:
    """The variance of an estimate from its values (G,) without each of G groups in turn (Efron 1982, Section 3)."""
    return (len(values) - 1) * values.var(correction=0)


def mean(values: np.ndarray) -> list[float]:
    """Student's interval of the mean of values (N,), N > 1."""
    n, middle = len(values), float(values.mean())
    half = float(stdtrit(n - 1, 0.975) * values.std(ddof=1)) / sqrt(n)
    return [middle - half, middle + half]


def auc(scores_in: np.ndarray, scores_out: np.ndarray) -> list[float]:
    """Interval of the area under the ROC curve: Wilson's for the number of independent pairs that has DeLong's variance
    (DeLong 1988), at most the number of scores. Near 1 the variance is estimated from a few pairs and is too low."""
    m, n = len(scores_in), len(scores_out)
    above = exceeded(scores_in, scores_out)  # for each in-distribution image: P(in > out) + P(tie) / 2
    below = exceeded(-scores_out, -scores_in)  # the same for each out-distribution image
    p = float(above.mean())
    variance = above.var(ddof=1) / m + below.var(ddof=1) / n
    return proportion(p, min(p * (1 - p) / variance, m + n) if variance > 0 else min(m, n))


def exceeded(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """For each number in a, the share of the numbers in b below it; equal ones count half."""
    b = np.sort(b)
    return (np.searchsorted(b, a, "left") + np.searchsorted(b, a, "right")) / (2 * len(b))
