"""How good samples are: FID with its standard error and of each class; KID, Inception Score, precision and recall by
torch-fidelity; label consistency by the judge."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from advebm.data.images import Images
from advebm.energy import given, unconfident
from advebm.evaluation.features import Network
from advebm.evaluation.parts import BATCH, Part, anew
from advebm.ranges import Count


@dataclass(kw_only=True)
class Quality:
    """Samples against images of the reference split, by features of the judge or of Inception."""

    features: Literal["judge", "inception"]
    inception: str = "weights-inception-2015-12-05-6726825d.pth"  # under the data root; else torch-fidelity downloads it
    reference: Literal["train", "validation", "test"] = "train"  # tune with validation; see commands/baselines.py
    reference_images: Count | None = None  # of the reference; null: as many as there are samples
    splits: Count = 10  # of the Inception Score
    kid_subset: Count = 100  # images of a subset of KID (100 subsets), at most the number of samples
    buffer: bool = True  # also the replay buffer, where a method has one, by the protocol jempp-buffer


class Reference:
    """Images that samples are compared with, and their features, {layer: (N, D)}."""

    def __init__(self, images: Images, using: Network):
        self.images, self.features = images, using.features(images.x, "reference")


def reference(images: Images, m: int, using: Network) -> Reference:
    """The first m of the images as a reference. Raises ValueError where there are fewer."""
    if m > len(images.x):
        raise ValueError(f"quality.reference_images: {m} images are wanted of a reference of {len(images.x)}")
    return Reference(images[:m], using)


def frechet(a: Tensor, b: Tensor) -> float:
    """Frechet distance of Gaussians fitted to features a (N, D), b (M, D): |mean difference|^2 + tr A + tr B - 2 tr
    (A B)^(1/2) (Heusel et al. 2017, Eq. 6). The last is the sum of the singular values of R_a R_b', with A = R_a' R_a, so
    that few images are quick."""
    return distance(fitted(a), fitted(b))


def fitted(z: Tensor) -> tuple[Tensor, Tensor]:
    """The mean m (D,) of features z (N, D), and R with R' R their covariance."""
    z = z.double()
    centred = (z - z.mean(0)) / (len(z) - 1) ** 0.5
    return z.mean(0), torch.linalg.qr(centred, mode="r").R if len(z) > z.shape[1] else centred


def distance(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> float:
    """Frechet distance of Gaussians that are `fitted`."""
    (m_a, r_a), (m_b, r_b) = a, b
    shared = torch.linalg.svdvals(r_a @ r_b.T).sum()
    means = (m_a - m_b).square().sum()
    return (means + r_a.square().sum() + r_b.square().sum() - 2 * shared).item()


def jackknife(a: Tensor, b: Tensor, groups: int = 10) -> float:
    """Standard error of the Frechet distance from leaving out each of the groups of a's images in turn; b is held fixed
    (Efron 1982, Section 3). A group is a run of images: where their classes go round, as those of samples do, it has as
    many of each."""
    group = torch.arange(len(a)) * groups // len(a)
    whole = fitted(b)
    values = torch.tensor([distance(fitted(a[group != g]), whole) for g in range(groups)])
    return ((groups - 1) * values.var(correction=0)).sqrt().item()


def fidelity(
    images: Images, reference: Reference, spec: Quality, using: Network, *, name: str, part: Part = anew
) -> dict[str, Any]:
    """{fid, fid_se, fid_per_class, kid_mean, kid_std, is_mean, is_std, precision, recall, n, reference_n} of images, which
    go by that name in the bar and in the parts, against a reference.

    IS is None where the features have no classifier layer, fid_per_class where the images have no classes or too few of
    one. kid_std is of the subsets, is_std of the splits.
    """
    from advebm.vision import torch_fidelity as t

    n, m = len(images.x), len(reference.images.x)
    layer, logits = using.layers
    ours = using.features(images.x, name)
    a, b = ours[layer], reference.features[layer]

    def kept(what: str, make: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Numbers that take long, as a part."""
        made = part(f"{what} of {name}", lambda: {key: torch.tensor(v, dtype=torch.float64) for key, v in make().items()})
        return {key: value.item() for key, value in made.items()}

    statistics = t.metric_fid.fid_features_to_statistics
    fid = kept("fid", lambda: t.metric_fid.fid_statistics_to_metric(statistics(a), statistics(b), verbose=False))
    kid = t.metric_kid.kid_features_to_metric(a, b, kid_subset_size=min(spec.kid_subset, n, m), **using.options)
    prc = kept("precision and recall", lambda: t.metric_prc.prc_features_to_metric(a, b, **using.options))
    score = t.metric_isc.isc_features_to_metric(ours[logits], splits=min(spec.splits, n)) if using.classifies else {}
    return {
        "fid": fid["frechet_inception_distance"],
        **kept("standard error", lambda: {"fid_se": jackknife(a, b)}),
        "fid_per_class": per_class(a, images.y, b, reference.images.y) if images.y is not None else None,
        "kid_mean": kid["kernel_inception_distance_mean"],
        "kid_std": kid["kernel_inception_distance_std"],
        "is_mean": score.get("inception_score_mean"),
        "is_std": score.get("inception_score_std"),
        "precision": prc["precision"],
        "recall": prc["recall"],
        "n": n,
        "reference_n": m,
    }


def per_class(a: Tensor, y: np.ndarray, b: Tensor, y_b: np.ndarray, least: int = 10) -> list[float] | None:
    """Frechet distance of each class by itself; None where a class has fewer than `least` images on a side."""
    classes = np.unique(y)
    if min(min((y == k).sum(), (y_b == k).sum()) for k in classes) < least:
        return None
    return [frechet(a[torch.from_numpy(y == k)], b[torch.from_numpy(y_b == k)]) for k in classes]


@torch.no_grad()
def confident(net: nn.Module, images: Images, n: int, batch: int = BATCH) -> Images:
    """All images where they are n at most; else of each class that the network sees the n / K that it is surest of, and the
    surest of the rest where a class has fewer, in the order that they are in: how JEM++ picks samples from its replay
    buffer (Yang and Ji 2021, as released, where such a class has fewer)."""
    if len(images.x) <= n:
        return images
    device = next(net.parameters()).device
    logits = torch.cat([net(images[i : i + batch].pixels(device)) for i in range(0, len(images.x), batch)])
    seen, classes = logits.argmax(1), logits.shape[1]
    surest = unconfident(given(logits))(logits).sort(stable=True).indices
    chosen = torch.cat([surest[seen[surest] == k][: n // classes] for k in range(classes)])
    rest = surest[~torch.isin(surest, chosen)][: n - len(chosen)]
    return Images(images.x[torch.cat([chosen, rest]).sort().values.cpu().numpy()])


@torch.no_grad()
def label_consistency(judge: nn.Module, images: Images, batch: int = BATCH) -> float:
    """How often the judge sees the class that was asked for."""
    device = next(judge.parameters()).device
    parts = [images[i : i + batch] for i in range(0, len(images.x), batch)]
    right = sum((judge(p.pixels(device)).argmax(1) == p.labels(device)).sum().item() for p in parts)
    return right / len(images.x)


def protocol(spec: Quality, name: str, numbers: dict[str, Any], distinct: int) -> str:
    """What a number was made from, in words, after the protocol's name; distinct: how many of the images differ.

    ours: from scratch, against the reference split; atebm: as ours, but from out-distribution images (AE); jempp-buffer:
    images of the replay buffer, where it has more those of each class that the model is surest of, against training and
    test images (JEM++).
    """
    features = "the study's judge" if spec.features == "judge" else "torch-fidelity's Inception"
    made = {
        "ours": "from scratch",
        "atebm": "from out-distribution images",
        "jempp-buffer": "of the training's replay buffer, where it has more the surest of each class,",
    }[name]
    against = "train and test" if name == "jempp-buffer" else spec.reference
    repeats = f" ({distinct} distinct)" if distinct < numbers["n"] else ""
    ours, theirs = f"{numbers['n']} images{repeats} {made}", f"{numbers['reference_n']} {against} images"
    return f"{name}: {ours} against {theirs}, features of {features}"
