"""Sample quality: FID and KID with their standard errors; Inception Score, precision and recall by torch-fidelity; label
consistency by the judge. Samples and reference have as many images of each class."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor, nn

from advebm import networks
from advebm.data.images import Images
from advebm.data.prepared import shaped
from advebm.energy import unconfident
from advebm.evaluation import features, kernel
from advebm.evaluation.collapse import collapsed
from advebm.evaluation.features import FeatureNetwork
from advebm.evaluation.frechet import Gaussian, distance, fitted, jackknife
from advebm.evaluation.result import Named, Result
from advebm.evaluation.subject import Subject, Surroundings, label_consistency
from advebm.networks.passes import convolving
from advebm.ranges import LEAST, Count
from advebm.runtime import state
from advebm.runtime.parts import BATCH, Part, anew

BUFFER = "replay_buffer"  # scored like a recipe's samples
MANY = 10_000  # reference images that precision and recall use, unless there are more samples


@dataclass(kw_only=True)
class Quality(features.Features):
    """Samples against images of the reference split, by features of the judge or of Inception."""

    reference: Literal["train", "validation", "test"] = "train"  # tune with validation; see `score`
    reference_images: Annotated[int, Ge(LEAST)] | None = None  # of the reference; null: as many as samples
    splits: Count = 10  # of the Inception Score
    buffer: bool = True  # also score a method's replay buffer, by the protocol jempp-buffer

    def measure(self, subject: Subject, part: Part) -> "tuple[QualityResult, None]":
        ends = Baselines.load(subject.baselines / "baselines.json", "baselines").named
        sets = dict(subject.sampled)
        protocols = {name: "atebm" for name, recipe in subject.recipes.items() if recipe.start == "outliers"}
        buffer = networks.beside(subject.model, "replay_buffer.npz")
        net, header = subject.net, networks.header(subject.model)
        if self.buffer and buffer:
            sets[BUFFER] = confident(net, shaped(buffer, subject.about), subject.count)
            protocols[BUFFER] = "jempp-buffer"
        how = generated(subject.precision, header)
        found = score(sets, self, subject, part=part, protocols=protocols, how=how)
        return QualityResult(named=found, baselines=ends), None


@dataclass(kw_only=True)
class Scores:
    """The quality of a set of images. Field names are keys of the JSON file."""

    fid: float
    fid_se: float | None = None  # standard error, by the jackknife
    fid_per_class: list[float] | None = None  # None where the images have no classes or too few of one
    kid: float
    kid_se: float | None = None  # standard error, by the jackknife
    is_mean: float | None  # Inception Score; None where the features have no classifier layer
    is_std: float | None = None  # over the splits
    precision: float | None = None
    recall: float | None = None
    n: int
    reference_n: int | None = None
    label_consistency: float | None = None  # None where the images have no classes
    protocol: str = ""  # how the numbers were obtained, in words: see `protocol`
    warnings: list[str] = field(default_factory=list)  # signs that the images have collapsed


@dataclass(kw_only=True)
class Baselines(Named):
    """The two ends of the scale: class Gaussians and real images."""

    named: dict[str, Scores]


@dataclass(kw_only=True)
class QualityResult(Result):
    """By recipe, and for the replay buffer; and the baselines."""

    named: dict[str, Scores]  # keys of the JSON object, besides "baselines"
    baselines: dict[str, Scores]

    def json(self) -> dict[str, Any]:
        content = super().json()
        return content["named"] | {"baselines": content["baselines"]}

    @classmethod
    def read(cls, content: dict[str, Any]) -> "QualityResult":
        named = {name: entry for name, entry in content.items() if name != "baselines"}
        return super().read({"named": named, "baselines": content["baselines"]})


class Reference:
    """Images that samples are compared with: their features z (M, D), on the feature network's device, and the Gaussians
    fitted to all of them and to each class, computed once."""

    def __init__(self, images: Images, using: FeatureNetwork):
        self.images = images
        self.z = using.features(images.x, "reference")[using.layers[0]].to(using.device)

    @cached_property
    def digest(self) -> str:
        return _digest(self.z)

    @cached_property
    def gaussian(self) -> Gaussian:
        return fitted(self.z)

    @cached_property
    def kernels(self) -> kernel.Features:
        """For KID."""
        return kernel.Features.of(self.z, self.images.y)

    @cached_property
    def of_class(self) -> dict[int, Gaussian]:
        """Gaussians of the classes with at least LEAST images."""
        y = self.images.y
        if y is None:
            return {}
        classes, counts = np.unique(y, return_counts=True)
        return {int(k): fitted(self.z[_of(y, k, self.z)]) for k in classes[counts >= LEAST]}


def _digest(z: Tensor) -> str:
    """sha256 of features."""
    return hashlib.sha256(z.cpu().contiguous().numpy().data).hexdigest()


def _of(y: np.ndarray, k: int, z: Tensor) -> Tensor:
    """Whether each image is of class k, (N,), on the device of the features."""
    return torch.from_numpy(y == k).to(z.device)


def balanced(images: Images, m: int) -> Images:
    """As many images of each class, the first, so that classes cycle: m in all, or, where a class has too few, as many of
    each as the rarest class has. Without classes the first m."""
    if images.y is None:
        return images[:m]
    classes, y, counts = np.unique(images.y, return_inverse=True, return_counts=True)
    each, more = divmod(m, len(classes))
    if counts.min() <= each:
        each, more = int(counts.min()), 0 if counts.min() < each else more
    place = np.zeros(len(y), dtype=np.int64)  # of an image among those of its class
    for k in range(len(classes)):
        place[y == k] = np.arange(counts[k])
    order = np.lexsort((y, place))
    quota = np.minimum(each + (np.arange(len(classes)) < more), counts)
    return images[order[place[order] < quota[y[order]]]]


def reference(images: Images, m: int, using: FeatureNetwork) -> Reference:
    """m of the images as a reference, see `balanced`. Raises ValueError where there are fewer images."""
    if m > len(images.x):
        raise ValueError(f"quality.reference_images: {m} is too many, the reference has {len(images.x)} images")
    return Reference(balanced(images, m), using)


def fidelity(
    images: Images, reference: Reference, spec: Quality, using: FeatureNetwork, *, name: str, part: Part = anew
) -> Scores:
    """The scores of the images against a reference, except label consistency and protocol; `name` labels the progress bar
    and the parts. Precision and recall may use fewer reference images, see `compared`."""
    n, m = len(images.x), len(reference.images.x)
    layer, logits = using.layers
    ours = using.features(images.x, name)
    z, z_ref = ours[layer].to(using.device), reference.z
    inputs = f"{_digest(z)} {reference.digest}"  # what the numbers are computed from, whatever files it came from

    def kept(what: str, make: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Expensive numbers, saved as a part."""

        def saved() -> dict[str, Tensor]:
            return {key: torch.tensor(value, dtype=torch.float64) for key, value in make().items()}

        made = part(f"{what} of {name}, {inputs}", saved)
        return {key: value.item() for key, value in made.items()}

    def frechet() -> dict[str, float]:
        return {"fid": distance(fitted(z), reference.gaussian), "fid_se": jackknife(z, reference.gaussian)}

    def kernel_distance() -> dict[str, float]:
        found = kernel.distance(kernel.Features.of(z, images.y), reference.kernels)
        return dict(zip(("kid", "kid_se"), found, strict=True))

    kid = kept("kid", kernel_distance)
    prc = kept("precision and recall", lambda: precision_recall(z, z_ref, using))
    fid = kept("fid", frechet)
    inception = inception_score(ours[logits], min(spec.splits, n)) if using.classifies else {}
    return Scores(
        fid=fid["fid"],
        fid_se=fid["fid_se"],
        fid_per_class=per_class(z, images.y, reference) if images.y is not None else None,
        kid=kid["kid"],
        kid_se=kid["kid_se"],
        is_mean=inception.get("inception_score_mean"),
        is_std=inception.get("inception_score_std"),
        precision=prc["precision"],
        recall=prc["recall"],
        n=n,
        reference_n=m,
    )


def precision_recall(z: Tensor, z_ref: Tensor, using: FeatureNetwork) -> dict[str, float]:
    """Precision and recall of features z (N, D) against z_ref (M, D), see `compared`."""
    from advebm.vision import torch_fidelity as t

    paired = compared(len(z), len(z_ref))
    evenly = torch.arange(paired) * len(z_ref) // paired
    return t.metric_prc.prc_features_to_metric(z, z_ref[evenly], **using.options)


def inception_score(logits: Tensor, splits: int) -> dict[str, float]:
    """The Inception Score of logits (N, K), its mean and standard deviation over the splits."""
    from advebm.vision import torch_fidelity as t

    return t.metric_isc.isc_features_to_metric(logits, splits=splits)


def score(
    sets: dict[str, Images],
    spec: Quality,
    subject: Surroundings,
    *,
    part: Part = anew,
    protocols: dict[str, str] | None = None,
    how: str = "",
) -> dict[str, Scores]:
    """The scores of named images against the spec's reference, by the subject's judge. protocols: {name: protocol}, by
    default "ours". how: how the images were generated, for the text of the protocol."""
    net = subject.load_judge()
    using = features.network(spec, net, net.shape[0], subject.root, cache=state.features().part, bar=subject.bar)
    wanted = spec.reference_images or max((len(s.x) for s in sets.values()), default=0)
    split = subject.images(spec.reference)
    if spec.reference == "train" and wanted > len(split.x):  # the whole published training set
        split = joined(split, subject.images("validation"))

    @cache
    def first(m: int) -> Reference:
        return reference(split, m, using)

    def everything() -> Reference:
        whole = joined(*(subject.images(which) for which in ("train", "validation", "test")))
        return Reference(balanced(whole, spec.reference_images or len(whole.x)), using)

    enough({spec.reference: split, **sets})
    found = {}
    for name, content in sets.items():
        named = (protocols or {}).get(name, "ours")
        if named == "jempp-buffer":
            against = everything()
            content = balanced(content, len(against.images.x))
        else:
            content = balanced(content, len(content.x) if spec.reference_images else min(len(content.x), len(split.x)))
            against = first(spec.reference_images or len(content.x))
        numbers = fidelity(content, against, spec, using, name=name, part=part)
        consistency = None if content.y is None else label_consistency(net, content)
        distinct = len({x.tobytes() for x in content.x})
        words = protocol(spec, named, numbers, distinct, how)
        signs = collapsed(content.x, split.x)
        found[name] = replace(numbers, label_consistency=consistency, protocol=words, warnings=signs)
    return found


def enough(sets: dict[str, Images]) -> None:
    """Raises ValueError with the name of a set that has fewer than LEAST images."""
    for name, images in sets.items():
        if len(images.x) < LEAST:
            raise ValueError(f"{name}: {len(images.x)} images, but their quality needs at least {LEAST}")


def joined(*sets: Images) -> Images:
    """The sets as one. Raises ValueError where one has no classes."""
    return Images(np.concatenate([s.x for s in sets]), np.concatenate([s.labels().numpy() for s in sets]))


def generated(precision: str, header: dict[str, Any]) -> str:
    """How samples were generated, for the text of a protocol: what differs from float32 and evaluation mode."""
    parts = {f"in {precision}": precision != "fp32", "on batch statistics": header.get("statistics") == "batch"}
    return ", ".join(words for words, applies in parts.items() if applies)


def compared(n: int, m: int) -> int:
    """How many of m reference images, evenly spaced, precision and recall of n images use. They compare all pairs of
    images, so a large reference is reduced to the number of samples, but not below 10,000."""
    return min(m, max(n, MANY))


def per_class(z: Tensor, y: np.ndarray, reference: Reference) -> list[float] | None:
    """Frechet distance of the features z (N, D) for each class of y (N,) separately; None where one has fewer than LEAST
    images on either side."""
    classes = np.unique(y)
    if min((y == k).sum() for k in classes) < LEAST or not set(classes.tolist()) <= set(reference.of_class):
        return None
    return [distance(fitted(z[_of(y, k, z)]), reference.of_class[k]) for k in classes.tolist()]


@convolving("fp32")
@torch.no_grad()
def confident(net: nn.Module, images: Images, n: int, batch: int = BATCH) -> Images:
    """All images if they are at most n. Otherwise the n / K most confident of each class, as classified by the network, in
    their original order: how JEM++ picks samples from its replay buffer (Yang and Ji 2021). If a class has too few, the
    most confident of the rest are added; the released code keeps fewer images."""
    if len(images.x) <= n:
        return images
    device = next(net.parameters()).device
    logits = torch.cat([net(images[i : i + batch].pixels(device)) for i in range(0, len(images.x), batch)])
    seen, classes = logits.argmax(1), logits.shape[1]
    ranked = unconfident.of(logits).sort(stable=True).indices
    chosen = torch.cat([ranked[seen[ranked] == k][: n // classes] for k in range(classes)])
    rest = ranked[~torch.isin(ranked, chosen)][: n - len(chosen)]
    return Images(images.x[torch.cat([chosen, rest]).sort().values.cpu().numpy()])


def protocol(spec: Quality, name: str, numbers: Scores, distinct: int, how: str = "") -> str:
    """How numbers were obtained, in words, after the protocol's name. distinct: how many of the images differ. how: how
    they were generated, or nothing.

    ours: from scratch, against the reference split. atebm: as ours, but from out-distribution images (Yin, Li and Rohde
    2022). jempp-buffer: images of the replay buffer, the most confident of each class if it has more, against training and
    test images (Yang and Ji 2021).
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
    conditions = f" ({how})" if how and name != "jempp-buffer" else ""
    reference = f"{m} {against} images{fewer}, balanced over classes"
    return f"{name}: {n} images{repeats} {made}{conditions} against {reference}, features of {features}"
