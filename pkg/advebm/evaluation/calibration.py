"""Calibration: whether the classifier's confidence equals its accuracy."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch

from advebm.data.images import Images
from advebm.evaluation.result import Interval, Result
from advebm.evaluation.subject import Subject
from advebm.networks import Network, frozen
from advebm.networks.passes import convolving
from advebm.ranges import Count
from advebm.runtime.parts import BATCH, SEED, Part

RESAMPLES = 999  # of the bootstrap


@dataclass(kw_only=True)
class Calibration:
    """Bins of equal width of the maximal softmax probability."""

    split: Literal["validation", "test"] = "test"  # tune with validation
    bins: Count = 20

    def measure(self, subject: Subject, part: Part) -> "tuple[CalibrationResult, None]":
        bar = subject.bar("calibration")
        return calibration(subject.net, subject.images(self.split), self, seed=SEED, progress=bar), None


@dataclass(kw_only=True)
class Bin:
    """Means over the images whose confidence is in a bin; None where there are none."""

    low: float
    high: float
    confidence: float | None
    accuracy: float | None
    count: int


@dataclass(kw_only=True)
class CalibrationResult(Result):
    """In [0, 1], except for counts. None, without bins, where the network has no class logits."""

    ece: float | None  # expected calibration error
    ece_ci: Interval | None = None
    accuracy: float | None
    confidence: float | None  # mean
    n: int
    bins: list[Bin]


def bin_of(confidence: np.ndarray, bins: int) -> np.ndarray:
    """Bin m = 0, ..., bins - 1 holds m / bins < confidence <= (m + 1) / bins (Guo et al. 2017, Section 2)."""
    return np.digitize(confidence, np.linspace(0, 1, bins + 1)[1:-1], right=True)


def error(confidence: np.ndarray, right: np.ndarray, bins: int) -> float:
    """ECE = sum over bins B of |B| / n |accuracy(B) - confidence(B)| (Guo et al. 2017, Eq. 3)."""
    gaps = np.bincount(bin_of(confidence, bins), right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(right))


def interval(confidence: np.ndarray, right: np.ndarray, bins: int, seed: int) -> list[float]:
    """Basic 95% bootstrap interval [lo, hi] of the ECE e over images: [2 e - q_.975, 2 e - q_.025], not below 0.

    The ECE of n images is biased upwards, because noise adds to |gap|, and that of a resample twice: the percentile
    interval is too high and often excludes e. The basic interval corrects this; it had the best coverage in simulations.
    """
    from scipy.stats import bootstrap

    found = bootstrap(
        (confidence, right),
        lambda c, r: error(c, r, bins),
        paired=True,
        vectorized=False,
        n_resamples=RESAMPLES,
        method="basic",
        random_state=np.random.default_rng(seed),  # named rng since scipy 1.15
    ).confidence_interval
    return [max(0.0, float(found.low)), max(0.0, float(found.high))]


@convolving("fp32")
def calibration(
    net: Network, images: Images, spec: Calibration, *, seed: int, batch: int = BATCH, progress: Callable = iter
) -> CalibrationResult:
    """The expected calibration error over the images (Guo et al. 2017). The softmax is in float64."""
    n, device = len(images.x), next(net.parameters()).device
    if net.outputs == 1:
        return CalibrationResult(ece=None, ece_ci=None, accuracy=None, confidence=None, n=n, bins=[])
    parts = []
    with frozen(net), torch.no_grad():
        for start in progress(range(0, n, batch)):
            part = images[start : start + batch]
            p, seen = net(part.pixels(device)).double().softmax(1).max(1)
            parts.append(torch.stack([p, (seen == part.labels(device)).double()]).cpu())
    confidence, right = torch.cat(parts, 1).numpy()
    which, edges = bin_of(confidence, spec.bins), np.linspace(0, 1, spec.bins + 1).tolist()
    bins = []
    for m, (low, high) in enumerate(pairwise(edges)):
        inside = which == m
        means = [float(values[inside].mean()) if inside.any() else None for values in (confidence, right)]
        bins.append(Bin(low=low, high=high, confidence=means[0], accuracy=means[1], count=int(inside.sum())))
    return CalibrationResult(
        ece=error(confidence, right, spec.bins),
        ece_ci=interval(confidence, right, spec.bins, seed),
        accuracy=float(right.mean()),
        confidence=float(confidence.mean()),
        n=n,
        bins=bins,
    )
