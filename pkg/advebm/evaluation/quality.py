"""How good samples are: FID, KID, Inception Score, precision and recall, all by torch-fidelity; FID of each class and its
standard error; label consistency by the judge."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from advebm.data.images import Images
from advebm.energy import given, unconfident
from advebm.evaluation.parts import BATCH, Part, anew, gathered
from advebm.ranges import Count

PART = 256  # images whose features are a part: four of torch-fidelity's batches


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


class _Pixels(torch.utils.data.Dataset):
    """uint8 (3, H, W), as torch-fidelity takes images; one channel is repeated."""

    def __init__(self, x: np.ndarray):
        self.x = torch.from_numpy(np.broadcast_to(x, (*x.shape[:3], 3)).copy()).permute(0, 3, 1, 2)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Tensor:
        return self.x[index]


def register_judge(judge: nn.Module, channels: int) -> str:
    """Give the judge's pooled features and logits to torch-fidelity, once; returns the name that it goes by there."""
    from advebm.vision import torch_fidelity  # isort: skip
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

    weights = b"".join(tensor.cpu().numpy().tobytes() for tensor in judge.state_dict().values())
    name = f"judge-{hashlib.sha256(weights).hexdigest()[:16]}"
    if name in FEATURE_EXTRACTORS_REGISTRY:
        return name

    class Judge(torch_fidelity.FeatureExtractorBase):
        def __init__(self, name, features_list, **options):
            super().__init__(name, features_list)

        @staticmethod
        def get_provided_features_list():
            return "features", "logits"

        @staticmethod
        def get_default_feature_layer_for_metric(metric):
            return "logits" if metric == "isc" else "features"

        @staticmethod
        def can_be_compiled():
            return False

        def forward(self, x):
            x = x[:, :channels].float() / 255
            outputs = {"features": judge.features(x), "logits": judge(x)}
            return tuple(outputs[key] for key in self.features_list)

    torch_fidelity.register_feature_extractor(name, Judge)
    return name


@cache
def register_inception() -> str:
    """Give torch-fidelity its own Inception with the images' channels last in memory, where a CPU is faster."""
    from advebm.vision import torch_fidelity

    name = "inception-v3-compat-channels-last"

    class Inception(torch_fidelity.FeatureExtractorInceptionV3):
        def __init__(self, name, features_list, **options):
            super().__init__(name, features_list, **options)
            self.to(memory_format=torch.channels_last)

    torch_fidelity.register_feature_extractor(name, Inception)
    return name


@dataclass(kw_only=True)
class Network:
    """A feature network of torch-fidelity, by the name that it is registered under."""

    name: str
    weights: Path | None = None
    layers: tuple[str, str] = ("2048", "logits_unbiased")  # of FID, KID, precision and recall; of the Inception Score
    classifies: bool = True  # a weights file without the classifier layer gives no Inception Score
    references: dict[str, dict[str, Tensor]] = field(default_factory=dict)  # their features; those not there are added
    part: Part = anew
    bar: Callable[[str], Callable] = lambda name: iter

    @cached_property
    def options(self) -> dict[str, Any]:
        return {
            "feature_extractor": self.name,
            "feature_extractor_weights_path": None if self.weights is None else str(self.weights),
            "cuda": torch.cuda.is_available(),
            "batch_size": 64,
            "save_cpu_ram": True,  # no worker processes: the images are in memory
            "verbose": False,
            "rng_seed": 2020,
        }

    @cached_property
    def extractor(self):
        from advebm.vision import torch_fidelity

        return torch_fidelity.utils.create_feature_extractor(self.name, list(self.layers), **self.options)

    def features(self, x: np.ndarray, name: str) -> dict[str, Tensor]:
        """{layer: (N, D)} of uint8 images (N, H, W, C), which go by that name in the bar and in the parts."""
        from advebm.vision import torch_fidelity

        def extracted(start: int) -> dict[str, Tensor]:
            pixels = _Pixels(x[start : start + PART])
            return torch_fidelity.utils.extract_featuresdict_from_input_id(1, self.extractor, input1=pixels, **self.options)

        makers = {f"{name} from {start}": partial(extracted, start) for start in range(0, len(x), PART)}
        parts = gathered(makers, self.part, self.bar(name))
        return {layer: torch.cat([part[layer] for part in parts]) for layer in self.layers}

    def reference(self, x: np.ndarray, key: str) -> dict[str, Tensor]:
        """Those of the reference of that key, computed once."""
        key = f"{self.name}-{key}-{len(x)}"
        if key not in self.references:
            self.references[key] = self.features(x, f"reference {key}")
        return self.references[key]


def network(spec: Quality, judge: nn.Module, channels: int, root: Path, **more: Any) -> Network:
    """The feature network that the spec names; more: fields of Network."""
    if spec.features == "judge":
        return Network(name=register_judge(judge, channels), layers=("features", "logits"), **more)
    weights = root / spec.inception
    if not weights.is_file():
        return Network(name=register_inception(), **more)
    classifier = torch.load(weights, weights_only=True, mmap=True)["fc.weight"]
    return Network(name=register_inception(), weights=weights, classifies=bool(classifier.any()), **more)


def kept(folder: Path) -> dict[str, dict[str, Tensor]]:
    """Features of references by key, of the files in a folder. Raises ValueError where one is damaged."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            found[file.stem] = load_file(file)
        except SafetensorError as error:
            raise ValueError(f"{file}: is damaged ({error}); run `advebm baselines` again") from error
    return found


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
    images: Images, reference: Images, spec: Quality, using: Network, *, name: str, key: str, m: int | None = None
) -> dict[str, Any]:
    """{fid, fid_se, fid_per_class, kid_mean, kid_std, is_mean, is_std, precision, recall, n, reference_n}.

    Of images, which go by that name, against the first m of the reference, which goes by that key. IS is None where the
    features have no classifier layer, fid_per_class where the images have no classes or too few of one. kid_std is of
    the subsets, is_std of the splits. Raises ValueError where the reference has too few images.
    """
    from advebm.vision import torch_fidelity as t

    n, m = len(images.x), m or spec.reference_images or len(images.x)
    if m > len(reference.x):
        raise ValueError(f"quality.reference_images: {m} images are wanted of a reference of {len(reference.x)}")
    layer, logits = using.layers
    ours, theirs = using.features(images.x, name), using.reference(reference.x[:m], key)
    a, b = ours[layer], theirs[layer]

    def kept(what: str, make: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Numbers that take long, as a part."""
        part = using.part(
            f"{what} of {name}", lambda: {key: torch.tensor(v, dtype=torch.float64) for key, v in make().items()}
        )
        return {key: value.item() for key, value in part.items()}

    statistics = t.metric_fid.fid_features_to_statistics
    fid = kept("fid", lambda: t.metric_fid.fid_statistics_to_metric(statistics(a), statistics(b), verbose=False))
    kid = t.metric_kid.kid_features_to_metric(a, b, kid_subset_size=min(spec.kid_subset, n, m), **using.options)
    prc = kept("precision and recall", lambda: t.metric_prc.prc_features_to_metric(a, b, **using.options))
    score = t.metric_isc.isc_features_to_metric(ours[logits], splits=min(spec.splits, n)) if using.classifies else {}
    return {
        "fid": fid["frechet_inception_distance"],
        **kept("standard error", lambda: {"fid_se": jackknife(a, b)}),
        "fid_per_class": per_class(a, images.y, b, reference.y[:m]) if images.y is not None else None,
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
