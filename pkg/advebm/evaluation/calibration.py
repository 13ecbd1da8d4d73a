"""Calibration: whether the classifier is right as often as it says."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from advebm.data.images import Images
from advebm.evaluation.parts import BATCH
from advebm.networks import frozen
from advebm.networks.passes import convolving
from advebm.ranges import Count

RESAMPLES = 999  # of the bootstrap


@dataclass(kw_only=True)
class Calibration:
    """Bins of equal width of the maximal softmax probability."""

    split: Literal["validation", "test"] = "test"  # tune with validation
    bins: Count = 20


def bin_of(confidence: np.ndarray, bins: int) -> np.ndarray:
    """Bin m = 0, ..., bins - 1 holds m / bins < confidence <= (m + 1) / bins (Guo et al. 2017, Section 2)."""
    return np.digitize(confidence, np.linspace(0, 1, bins + 1)[1:-1], right=True)


def error(confidence: np.ndarray, right: np.ndarray, bins: int) -> float:
    """ECE = sum over bins B of |B| / n |accuracy(B) - confidence(B)| (Guo et al. 2017, Eq. 3)."""
    gaps = np.bincount(bin_of(confidence, bins), right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(right))


def interval(confidence: np.ndarray, right: np.ndarray, bins: int, seed: int) -> list[float]:
    """95% bootstrap interval [lo, hi] of the ECE over images, the basic one: [2 e - q_.975, 2 e - q_.025], not below 0.

    An ECE of n images is too high, as noise adds to |gap|, and a resample's is too high once more: the percentile
    interval lies above, often beside e itself. The basic one turns that about; it covered best in simulations.
    """
    from scipy.stats import bootstrap

    found = bootstrap(
        (confidence, right),
        lambda c, r: error(c, r, bins),
        paired=True,
        vectorized=False,
        n_resamples=RESAMPLES,
        method="basic",
        random_state=np.random.default_rng(seed),  # called rng from scipy 1.15 on
    ).confidence_interval
    return [max(0.0, float(found.low)), max(0.0, float(found.high))]


@convolving("fp32")
def calibration(
    net: nn.Module, images: Images, spec: Calibration, *, seed: int, batch: int = BATCH, progress: Callable = iter
) -> dict[str, Any]:
    """{ece, ece_ci, accuracy, confidence, n, bins: [{low, high, confidence, accuracy, count}]}, all but counts in [0, 1];
    an empty bin's confidence and accuracy are None.

    All are None, and there are no bins, where the network has no logits of classes. Softmax is in float64.
    """
    n, device = len(images.x), next(net.parameters()).device
    if net.outputs == 1:
        return dict.fromkeys(("ece", "ece_ci", "accuracy", "confidence")) | {"n": n, "bins": []}
    parts = []
    with frozen(net), torch.no_grad():
        for start in progress(range(0, n, batch)):
            part = images[start : start + batch]
            p, seen = net(part.pixels(device)).double().softmax(1).max(1)
            parts.append(torch.stack([p, (seen == part.labels(device)).double()]).cpu())
    confidence, right = torch.cat(parts, 1).numpy()
    which, edges = bin_of(confidence, spec.bins), np.linspace(0, 1, spec.bins + 1).tolist()
    bins = []
    for m in range(spec.bins):
        inside, any_there = which == m, bool((which == m).any())
        bins.append(
            {
                "low": edges[m],
                "high": edges[m + 1],
                "confidence": float(confidence[inside].mean()) if any_there else None,
                "accuracy": float(right[inside].mean()) if any_there else None,
                "count": int(inside.sum()),
            }
        )
    return {
        "ece": error(confidence, right, spec.bins),
        "ece_ci": interval(confidence, right, spec.bins, seed),
        "accuracy": float(right.mean()),
        "confidence": float(confidence.mean()),
        "n": n,
        "bins": bins,
    }
