"""95% confidence intervals of what is estimated from images."""

from math import sqrt

import numpy as np
from scipy.stats import norm, rankdata

Z = float(norm.ppf(0.975))


def proportion(p: float, n: float) -> list[float]:
    """Wilson's interval (1927) of a proportion p of n; it is not empty at 0 and 1."""
    middle, half = p + Z * Z / (2 * n), Z * sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    return [max((middle - half) / (1 + Z * Z / n), 0.0), min((middle + half) / (1 + Z * Z / n), 1.0)]


def auc(scores_in: np.ndarray, scores_out: np.ndarray) -> list[float]:
    """Of the area under the ROC curve: DeLong's variance (1988), as Wilson's interval of that many independent pairs,
    but of no more than there are scores: near 1 the variance is estimated from a few pairs, and too low."""
    m, n = len(scores_in), len(scores_out)
    ranks = rankdata(np.r_[scores_in, scores_out])
    above = (ranks[:m] - rankdata(scores_in)) / n  # of each in image: P(in > out) + P(tie) / 2
    below = 1 - (ranks[m:] - rankdata(scores_out)) / m  # of each out image
    p = float(above.mean())
    variance = above.var(ddof=1) / m + below.var(ddof=1) / n
    return proportion(p, min(p * (1 - p) / variance, m + n) if variance > 0 else min(m, n))
