"""How good samples are: FID, KID and Inception Score, all by torch-fidelity, and label consistency by the judge."""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from advebm.data.images import Images
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


def extractor(spec: Quality, judge: nn.Module, channels: int, root: Path) -> dict[str, Any]:
    """torch-fidelity's options that name the features; `isc` says whether they can give an Inception Score."""
    if spec.features == "judge":
        return {"feature_extractor": register_judge(judge, channels), "isc": True}
    options: dict[str, Any] = {"feature_extractor": register_inception(), "isc": True}
    weights = root / spec.inception
    if weights.is_file():
        options["feature_extractor_weights_path"] = str(weights)
        classifier = torch.load(weights, weights_only=True, mmap=True)["fc.weight"]
        options["isc"] = bool(classifier.any())  # a file without the classifier layer holds zeros there
    return options


def fidelity(
    x: np.ndarray,
    reference: np.ndarray,
    spec: Quality,
    options: dict[str, Any],
    *,
    key: str,
    cache: Path,
    quiet: bool = True,
) -> dict[str, Any]:
    """FID, KID (mean) and IS (mean, std) of images x uint8 (N, H, W, C) against those of the reference.

    Features of the reference are kept in the folder `cache`, under `key`. IS is None where the features have no
    classifier layer.
    """
    from advebm.vision import torch_fidelity

    n, m = len(x), spec.reference_images or len(x)
    if m > len(reference):
        raise ValueError(f"quality.reference_images: {m} images are wanted of a reference of {len(reference)}")
    scores = torch_fidelity.calculate_metrics(
        input1=_Pixels(x),
        input2=_Pixels(reference[:m]),
        fid=True,
        kid=True,
        **options,
        isc_splits=min(spec.splits, n),
        kid_subset_size=min(spec.kid_subset, n, m),
        cache_root=str(cache),
        input2_cache_name=f"{key}-{m}",
        cuda=torch.cuda.is_available(),
        batch_size=64,
        save_cpu_ram=True,  # no worker processes: the images are in memory
        verbose=not quiet,
        rng_seed=2020,
    )
    return {
        "fid": float(scores["frechet_inception_distance"]),
        "kid_mean": float(scores["kernel_inception_distance_mean"]),
        "is_mean": float(scores["inception_score_mean"]) if options["isc"] else None,
        "is_std": float(scores["inception_score_std"]) if options["isc"] else None,
        "n": n,
    }


@torch.no_grad()
def label_consistency(judge: nn.Module, images: Images, batch: int = 500) -> float:
    """How often the judge sees the class that was asked for."""
    device = next(judge.parameters()).device
    parts = [images[i : i + batch] for i in range(0, len(images.x), batch)]
    right = sum((judge(p.pixels(device)).argmax(1) == p.labels(device)).sum().item() for p in parts)
    return right / len(images.x)


def protocol(spec: Quality, n: int) -> str:
    network = "the study's judge" if spec.features == "judge" else "torch-fidelity's Inception"
    return f"{n} images from scratch against {spec.reference_images or n} {spec.reference} images, features of {network}"
