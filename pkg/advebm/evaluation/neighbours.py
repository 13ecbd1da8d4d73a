"""Nearest neighbours: the training images most similar to each sample, and a test whether samples are copies."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from advebm.data.images import Images
from advebm.evaluation import features
from advebm.evaluation.result import Named
from advebm.evaluation.subject import Subject
from advebm.networks import device
from advebm.ranges import Count
from advebm.runtime import state
from advebm.runtime.parts import BATCH, Part

CHUNK = 2**19  # values that SSIM compares at a time: as many as fit in the cache


# the features (N, D) of uint8 images (N, H, W, C), which have a name for the progress bar
Extract = Callable[[np.ndarray, str], Tensor]


@dataclass(kw_only=True)
class Neighbours(features.Features):
    """The training images nearest to the first samples of each recipe."""

    samples: Count = 6
    nearest: Count = 5

    def measure(self, subject: Subject, part: Part) -> "tuple[NeighboursResult, Nearest]":
        made, train, test = subject.sampled, subject.images("train"), subject.images("test")[: subject.count]
        judge = subject.load_judge()
        using = features.network(self, judge, judge.shape[0], subject.root, cache=state.features().part, bar=subject.bar)

        def extract(x: np.ndarray, name: str) -> Tensor:
            return using.features(x, name)[using.layers[0]]

        bar = subject.bar("neighbours")
        result, found = neighbours(made, train, test, self, extract, device=device(), progress=bar)
        return result, Nearest({name: images.x for name, images in made.items()}, train.x, found)


@dataclass(kw_only=True)
class Distances:
    """L2 distances to the nearest training images: minimum, 5% quantile and median."""

    min: float
    q05: float
    median: float


@dataclass(kw_only=True)
class Similarities:
    """Similarities (SSIM) of the first n images to their most similar training images: maximum and median."""

    max: float
    median: float
    n: int


@dataclass(kw_only=True)
class Copying:
    """Whether images are nearer to the training images than test images are: see `copying`."""

    z: float  # below 0: nearer
    p: float  # the probability of a z as low if both have the same distances


@dataclass(kw_only=True)
class Near:
    l2: Distances  # of pixels in [0, 1]
    features: Distances
    ssim: Similarities
    n: int
    copying: dict[str, Copying] = field(default_factory=dict)  # by l2 and features; empty for the test images


@dataclass(kw_only=True)
class NeighboursResult(Named):
    """By recipe, and for the "test images"."""

    named: dict[str, Near]


class Found(NamedTuple):
    """Indices of training images (samples, nearest)."""

    l2: np.ndarray
    features: np.ndarray
    ssim: np.ndarray


class Nearest(NamedTuple):
    """The data of the picture of nearest neighbours."""

    samples: dict[str, np.ndarray]  # uint8 (N, H, W, C) by recipe
    train: np.ndarray
    found: dict[str, Found]


def nearest_by_l2(x: Tensor, reference: Tensor, k: int, batch: int, progress: Callable = iter) -> tuple[Tensor, Tensor]:
    """Distances and indices, (N, k), nearest first. The search uses |b|^2 - 2 a.b, which has rounding errors; the distances
    are computed from differences, so that a copy is at 0."""
    b = reference.flatten(1)
    squares = b.square().sum(1)
    found = []
    for a in progress(x.flatten(1).split(batch)):
        index = (squares - 2 * a @ b.T).topk(k, largest=False).indices
        distance, order = torch.stack([(b[i] - a).norm(dim=1) for i in index.T], 1).sort(stable=True)
        found.append((distance, index.gather(1, order)))
    distances, indices = zip(*found, strict=True)
    return torch.cat(distances), torch.cat(indices)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity (...), at most 1, of images (..., C, H, W) in [0, 1], which broadcast (Wang et al. 2004, Eq.
    13). With scikit-image's defaults: uniform windows of 7x7 within the image, sample covariance, mean over windows and
    channels. Smaller images use the largest odd window that fits. Expects float64."""
    height, width = a.shape[-2:]
    size = min(7, height, width)
    size -= 1 - size % 2
    down, across = (a.new_ones(n, n - size + 1).tril().triu(1 - size) / size for n in (height, width))

    def mean(x: Tensor) -> Tensor:
        return (x @ across).mT @ down  # over each window, (..., C, columns, rows)

    sample = size**2 / max(size**2 - 1, 1)
    ma, mb = mean(a), mean(b)
    va, vb = sample * (mean(a.square()) - ma.square()), sample * (mean(b.square()) - mb.square())
    vab = sample * (mean(a * b) - ma * mb)
    c1, c2 = 0.01**2, 0.03**2
    similar = (2 * ma * mb + c1) * (2 * vab + c2) / ((ma.square() + mb.square() + c1) * (va + vb + c2))
    return similar.mean((-3, -2, -1))


def nearest_by_ssim(x: Tensor, reference: Tensor, k: int, progress: Callable = iter) -> tuple[Tensor, Tensor]:
    """Similarities and indices, (N, k), most similar first."""
    size = max(CHUNK // x.numel(), 1)
    similar = x.new_empty(len(x), len(reference), dtype=torch.float64)
    for i in progress(range(0, len(reference), size)):
        similar[:, i : i + size] = ssim(x[:, None].double(), reference[None, i : i + size].double())
    values, indices = similar.topk(k)
    return values, indices


def copying(made: np.ndarray, held_out: np.ndarray) -> Copying:
    """The test of Meehan, Chaudhuri and Dasgupta (2020, Section 3.1, in one cell, Z_U) by the distances (M,) of generated
    and (N,) of held-out images to their nearest training images: Mann and Whitney's U, how many of the M N pairs have the
    generated image farther away (ties count half), by its mean and deviation under the null, z = (U - M N / 2) / s, and the
    normal p of a z as low. Ties lower s. Images of less contrast than the data are nearer too, images more typical of their
    class are nearer in features, and neither are copies."""
    m, n = len(made), len(held_out)
    values, place, ties = np.unique(np.concatenate([made, held_out]), return_inverse=True, return_counts=True)
    rank = (ties.cumsum() - (ties - 1) / 2)[place]  # from 1; of ties, their mean
    u = rank[:m].sum() - m * (m + 1) / 2
    total = m + n
    variance = m * n / 12 * (total + 1 - (ties.astype(float) ** 3 - ties).sum() / (total * (total - 1)))
    z = float((u - m * n / 2) / math.sqrt(variance)) if len(values) > 1 else 0.0
    return Copying(z=z, p=math.erfc(-z / math.sqrt(2)) / 2)


def neighbours(
    samples: dict[str, Images],
    train: Images,
    test: Images,
    spec: Neighbours,
    extract: Extract,
    *,
    device: torch.device | str = "cpu",
    batch: int = BATCH,
    progress: Callable = iter,
) -> tuple[NeighboursResult, dict[str, Found]]:
    """The result and {set: training images} (Zhu et al. 2021, Fig. 7). A set is a recipe's samples or "test images", which
    `copying` compares with."""
    reference, reference_z = train.pixels(device), extract(train.x, "training images").to(device)
    k = min(spec.nearest, len(reference))
    numbers: dict[str, Near] = {}
    to_train: dict[str, dict[str, np.ndarray]] = {}  # distances
    found: dict[str, Found] = {}
    for name, images in (samples | {"test images": test}).items():
        x, z = images.pixels(device), extract(images.x, name).to(device)
        near = {
            "l2": nearest_by_l2(x, reference, k, batch, progress),
            "features": nearest_by_l2(z, reference_z, k, batch, progress),
        }
        to_train[name] = {key: distance[:, 0].double().cpu().numpy() for key, (distance, _) in near.items()}
        similarity, by_ssim = nearest_by_ssim(x[: spec.samples], reference, k, progress)
        most = similarity[:, 0].cpu().numpy()
        numbers[name] = Near(
            l2=distances(to_train[name]["l2"]),
            features=distances(to_train[name]["features"]),
            ssim=Similarities(max=float(most.max()), median=float(np.median(most)), n=len(most)),
            n=len(x),
        )
        shown = {key: index[: spec.samples].cpu().numpy() for key, (_, index) in near.items()}
        found[name] = Found(**shown, ssim=by_ssim.cpu().numpy())
    held_out = to_train["test images"]
    for name in samples:
        tests = {key: copying(values, held_out[key]) for key, values in to_train[name].items()}
        numbers[name] = replace(numbers[name], copying=tests)
    return NeighboursResult(named=numbers), found


def distances(to_train: np.ndarray) -> Distances:
    """Of distances (N,) to the nearest training images."""
    least, q05, median = np.quantile(to_train, [0, 0.05, 0.5]).tolist()
    return Distances(min=least, q05=q05, median=median)
