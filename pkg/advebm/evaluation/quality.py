"""How good samples are: FID with its standard error and of each class; KID, Inception Score, precision and recall by
torch-fidelity; label consistency by the judge."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from advebm.data.images import Images
from advebm.energy import unconfident
from advebm.evaluation.features import Network
from advebm.evaluation.frechet import Gaussian, distance, fitted, jackknife
from advebm.evaluation.parts import BATCH, Part, anew
from advebm.networks.passes import convolving
from advebm.ranges import Count

LEAST = 10  # images of a class that a Gaussian is fitted to
MANY = 10_000  # images of a reference that precision and recall are against, if there are not more samples


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
    """Images that samples are compared with: their features z (M, D), where the network computes, and the Gaussians fitted
    to all of them and to each class, which are computed once."""

    def __init__(self, images: Images, using: Network):
        self.images = images
        self.z = using.features(images.x, "reference")[using.layers[0]].to(using.device)

    @cached_property
    def gaussian(self) -> Gaussian:
        return fitted(self.z)

    @cached_property
    def of_class(self) -> dict[int, Gaussian]:
        """Of each class that has enough images."""
        y = self.images.y
        counts = {} if y is None else dict(zip(*np.unique(y, return_counts=True), strict=True))
        return {int(k): fitted(self.z[_of(y, k, self.z)]) for k, count in counts.items() if count >= LEAST}


def _of(y: np.ndarray, k: int, z: Tensor) -> Tensor:
    """Which images are of class k, (N,), where the features are."""
    return torch.from_numpy(y == k).to(z.device)


def reference(images: Images, m: int, using: Network) -> Reference:
    """The first m of the images as a reference. Raises ValueError where there are fewer."""
    if m > len(images.x):
        raise ValueError(f"quality.reference_images: {m} images are wanted of a reference of {len(images.x)}")
    return Reference(images[:m], using)


def fidelity(
    images: Images, reference: Reference, spec: Quality, using: Network, *, name: str, part: Part = anew
) -> dict[str, Any]:
    """{fid, fid_se, fid_per_class, kid_mean, kid_std, is_mean, is_std, precision, recall, n, reference_n} of images, which
    go by that name in the bar and in the parts, against a reference.

    IS is None where the features have no classifier layer, fid_per_class where the images have no classes or too few of
    one. kid_std is of the subsets, is_std of the splits. Precision and recall may be against fewer, see `compared`.
    """
    from advebm.vision import torch_fidelity as t

    n, m = len(images.x), len(reference.images.x)
    layer, logits = using.layers
    ours = using.features(images.x, name)
    z, z_ref = ours[layer].to(using.device), reference.z
    paired = compared(n, m)
    evenly = torch.arange(paired) * m // paired

    def kept(what: str, make: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Numbers that take long, as a part."""
        made = part(f"{what} of {name}", lambda: {key: torch.tensor(v, dtype=torch.float64) for key, v in make().items()})
        return {key: value.item() for key, value in made.items()}

    def frechet() -> dict[str, float]:
        return {"fid": distance(fitted(z), reference.gaussian), "fid_se": jackknife(z, reference.gaussian)}

    kid = kept(
        "kid",
        lambda: t.metric_kid.kid_features_to_metric(z, z_ref, kid_subset_size=min(spec.kid_subset, n, m), **using.options),
    )
    prc = kept("precision and recall", lambda: t.metric_prc.prc_features_to_metric(z, z_ref[evenly], **using.options))
    score = t.metric_isc.isc_features_to_metric(ours[logits], splits=min(spec.splits, n)) if using.classifies else {}
    return {
        **kept("fid", frechet),
        "fid_per_class": per_class(z, images.y, reference) if images.y is not None else None,
        "kid_mean": kid["kernel_inception_distance_mean"],
        "kid_std": kid["kernel_inception_distance_std"],
        "is_mean": score.get("inception_score_mean"),
        "is_std": score.get("inception_score_std"),
        "precision": prc["precision"],
        "recall": prc["recall"],
        "n": n,
        "reference_n": m,
    }


def compared(n: int, m: int) -> int:
    """How many of m images of a reference, evenly spaced, precision and recall of n images are against. They compare each
    image with each, so of a large reference as many as there are samples, but not fewer than 10,000."""
    return min(m, max(n, MANY))


def per_class(z: Tensor, y: np.ndarray, reference: Reference) -> list[float] | None:
    """Frechet distance of the features z (N, D) of each class y (N,) by itself; None where one has fewer than LEAST images
    on a side."""
    classes = np.unique(y)
    if min((y == k).sum() for k in classes) < LEAST or not set(classes.tolist()) <= set(reference.of_class):
        return None
    return [distance(fitted(z[_of(y, k, z)]), reference.of_class[k]) for k in classes.tolist()]


@convolving("fp32")
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
    surest = unconfident.of(logits).sort(stable=True).indices
    chosen = torch.cat([surest[seen[surest] == k][: n // classes] for k in range(classes)])
    rest = surest[~torch.isin(surest, chosen)][: n - len(chosen)]
    return Images(images.x[torch.cat([chosen, rest]).sort().values.cpu().numpy()])


@convolving("fp32")
@torch.no_grad()
def label_consistency(judge: nn.Module, images: Images, batch: int = BATCH) -> float:
    """How often the judge sees the class that was asked for."""
    device = next(judge.parameters()).device
    parts = [images[i : i + batch] for i in range(0, len(images.x), batch)]
    right = sum((judge(p.pixels(device)).argmax(1) == p.labels(device)).sum().item() for p in parts)
    return right / len(images.x)


def protocol(spec: Quality, name: str, numbers: dict[str, Any], distinct: int, how: str = "") -> str:
    """What a number was made from, in words, after the protocol's name; distinct: how many of the images differ; how: what
    is to be said of how they were generated, or nothing.

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
    n, m = numbers["n"], numbers["reference_n"]
    fewer = f" (precision and recall: {compared(n, m)} of them)" if m > compared(n, m) else ""
    said = f" ({how})" if how and name != "jempp-buffer" else ""
    return f"{name}: {n} images{repeats} {made}{said} against {m} {against} images{fewer}, features of {features}"
