"""How good samples are: FID with its standard error and of each class; KID, Inception Score, precision and recall by
torch-fidelity; label consistency by the judge."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from advebm import networks
from advebm.data import images as files
from advebm.data.images import Images
from advebm.energy import unconfident
from advebm.evaluation import features
from advebm.evaluation.features import Network
from advebm.evaluation.frechet import Gaussian, distance, fitted, jackknife
from advebm.evaluation.result import Result
from advebm.evaluation.subject import Subject, Surroundings
from advebm.networks.passes import convolving
from advebm.ranges import Count
from advebm.runtime.disk import read_json
from advebm.runtime.parts import BATCH, Part, anew

LEAST = 10  # images of a class that a Gaussian is fitted to
BUFFER = "replay_buffer"  # scored like a recipe's samples
MANY = 10_000  # images of a reference that precision and recall are against, if there are not more samples


@dataclass(kw_only=True)
class Quality:
    """Samples against images of the reference split, by features of the judge or of Inception."""

    features: Literal["judge", "inception"]
    inception: str = "weights-inception-2015-12-05-6726825d.pth"  # under the data root; else torch-fidelity downloads it
    reference: Literal["train", "validation", "test"] = "train"  # tune with validation; see `score`
    reference_images: Count | None = None  # of the reference; null: as many as there are samples
    splits: Count = 10  # of the Inception Score
    kid_subset: Count = 100  # images of a subset of KID (100 subsets), at most the number of samples
    buffer: bool = True  # also the replay buffer, where a method has one, by the protocol jempp-buffer

    def measure(self, subject: Subject) -> "tuple[QualityResult, None]":
        ends = read_baselines(subject.baselines)
        sets = dict(subject.sampled)
        protocols = {name: "atebm" for name, recipe in subject.recipes.items() if recipe.start == "outliers"}
        buffer = subject.model.with_name("replay_buffer.npz")
        net, header = networks.load(subject.model, networks.device())
        if self.buffer and buffer.is_file():
            sets[BUFFER] = confident(net, files.load(buffer), subject.count)
            protocols[BUFFER] = "jempp-buffer"
        found = score(sets, self, subject, protocols=protocols, how=generated(subject.precision, header))
        return QualityResult(named=found, baselines=ends), None


@dataclass(kw_only=True)
class Scores:
    """The quality of a set of images. Names of fields are keys of the JSON file."""

    fid: float
    fid_se: float | None = None  # standard error, by the jackknife
    fid_per_class: list[float] | None = None  # None where the images have no classes or too few of one
    kid_mean: float
    kid_std: float | None = None  # over the subsets
    is_mean: float | None  # Inception Score; None where the features have no classifier layer
    is_std: float | None = None  # over the splits
    precision: float | None = None
    recall: float | None = None
    n: int
    reference_n: int | None = None
    label_consistency: float | None = None  # None where the images have no classes
    protocol: str = ""  # what the numbers were made from, in words: see `protocol`


@dataclass(kw_only=True)
class QualityResult(Result):
    """By recipe, and of the replay buffer; baselines are the two ends of the scale, the class Gaussians and real images."""

    named: dict[str, Scores]  # keys of the JSON object, beside "baselines"
    baselines: dict[str, Scores]

    def json(self) -> dict[str, Any]:
        content = super().json()
        return content["named"] | {"baselines": content["baselines"]}

    @classmethod
    def read(cls, content: dict[str, Any]) -> "QualityResult":
        named = {name: entry for name, entry in content.items() if name != "baselines"}
        return super().read({"named": named, "baselines": content["baselines"]})


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
        if y is None:
            return {}
        classes, counts = np.unique(y, return_counts=True)
        return {int(k): fitted(self.z[_of(y, k, self.z)]) for k in classes[counts >= LEAST]}


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
) -> Scores:
    """The images, which go by that name in the bar and in the parts, against a reference: all but label consistency and
    protocol. Precision and recall may be against fewer, see `compared`."""
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
    fid = kept("fid", frechet)
    inception = t.metric_isc.isc_features_to_metric(ours[logits], splits=min(spec.splits, n)) if using.classifies else {}
    return Scores(
        fid=fid["fid"],
        fid_se=fid["fid_se"],
        fid_per_class=per_class(z, images.y, reference) if images.y is not None else None,
        kid_mean=kid["kernel_inception_distance_mean"],
        kid_std=kid["kernel_inception_distance_std"],
        is_mean=inception.get("inception_score_mean"),
        is_std=inception.get("inception_score_std"),
        precision=prc["precision"],
        recall=prc["recall"],
        n=n,
        reference_n=m,
    )


def score(
    sets: dict[str, Images],
    spec: Quality,
    subject: Surroundings,
    *,
    protocols: dict[str, str] | None = None,
    how: str = "",
) -> dict[str, Scores]:
    """The scores of named images against the spec's reference, by the subject's judge; protocols: {name: protocol}, "ours"
    where none is named; how: what the protocol is to say of how they were generated."""
    net, _ = networks.load(subject.judge, networks.device(), shape=subject.about["shape"])
    using = features.network(spec, net, net.shape[0], subject.root, cache=subject.cache(spec.features), bar=subject.bar)
    wanted = spec.reference_images or max((len(s.x) for s in sets.values()), default=0)
    split = subject.images(spec.reference)
    if spec.reference == "train" and wanted > len(split.x):  # all published training images
        split = joined(split, subject.images("validation"))

    @cache
    def first(m: int) -> Reference:
        return reference(split, m, using)

    def everything() -> Reference:
        whole = joined(*(subject.images(which) for which in ("train", "validation", "test")))
        m = spec.reference_images or len(whole.x)
        return Reference(whole[np.arange(m) * len(whole.x) // m], using)

    found = {}
    for name, content in sets.items():
        named = (protocols or {}).get(name, "ours")
        if named == "jempp-buffer":
            against = everything()
            content = content[: len(against.images.x)]
        else:
            content = content if spec.reference_images else content[: len(split.x)]
            against = first(spec.reference_images or len(content.x))
        numbers = fidelity(content, against, spec, using, name=name, part=subject.part)
        consistency = None if content.y is None else label_consistency(net, content)
        distinct = len({x.tobytes() for x in content.x})
        words = protocol(spec, named, numbers, distinct, how)
        found[name] = replace(numbers, label_consistency=consistency, protocol=words)
    return found


def read_baselines(folder: Path) -> dict[str, Scores]:
    """What the command `baselines` found. Raises FileNotFoundError or ValueError."""
    content = read_json(folder / "baselines.json", "baselines")
    return QualityResult.read({"baselines": content}).baselines


def joined(*sets: Images) -> Images:
    return Images(np.concatenate([s.x for s in sets]), np.concatenate([s.labels().numpy() for s in sets]))


def generated(precision: str, header: dict[str, Any]) -> str:
    """What a protocol says of how samples were generated, where that is not in float32 and in evaluation mode."""
    parts = {f"in {precision}": precision != "fp32", "on batch statistics": header.get("statistics") == "batch"}
    return ", ".join(words for words, so in parts.items() if so)


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


def protocol(spec: Quality, name: str, numbers: Scores, distinct: int, how: str = "") -> str:
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
    repeats = f" ({distinct} distinct)" if distinct < numbers.n else ""
    n, m = numbers.n, numbers.reference_n or 0
    fewer = f" (precision and recall: {compared(n, m)} of them)" if m > compared(n, m) else ""
    said = f" ({how})" if how and name != "jempp-buffer" else ""
    return f"{name}: {n} images{repeats} {made}{said} against {m} {against} images{fewer}, features of {features}"
