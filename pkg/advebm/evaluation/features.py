"""Features of images, computed by torch-fidelity with the judge or with its own Inception."""

import hashlib
import pickle
import urllib.error
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal
from zipfile import ZipFile

import numpy as np
import torch
from torch import Tensor, nn

from advebm.data.images import digest
from advebm.networks.passes import convolving
from advebm.networks.wrn import Classifier
from advebm.runtime import ranks
from advebm.runtime.parts import Part, anew

PART = 256  # images whose features are cached together: four of torch-fidelity's batches


@dataclass(kw_only=True)
class Features:
    """Which network computes features."""

    features: Literal["judge", "inception"]
    inception: str = "weights-inception-2015-12-05-6726825d.pth"  # under the data root; if missing, it is downloaded


class _Pixels(torch.utils.data.Dataset):
    """Images as torch-fidelity takes them, uint8 (3, H, W); a single channel is repeated."""

    def __init__(self, x: np.ndarray):
        self.x = torch.from_numpy(np.broadcast_to(x, (*x.shape[:3], 3)).copy()).permute(0, 3, 1, 2)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Tensor:
        return self.x[index]


def register_judge(judge: Classifier, channels: int) -> str:
    """Register the judge's pooled features and logits with torch-fidelity, once; returns the registered name."""
    from advebm.vision import torch_fidelity  # isort: skip
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

    weights = b"".join(tensor.cpu().numpy().tobytes() for tensor in judge.state_dict().values())
    name = f"judge-{hashlib.sha256(weights + repr(judge.spec).encode()).hexdigest()[:16]}"
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
    """Register torch-fidelity's own Inception in channels-last memory format, which is faster on a CPU."""
    from advebm.vision import torch_fidelity

    name = "inception-v3-compat-channels-last"

    class Inception(torch_fidelity.FeatureExtractorInceptionV3):
        def __init__(self, name, features_list, **options):
            super().__init__(name, features_list, **options)
            self.to(memory_format=torch.channels_last)

    torch_fidelity.register_feature_extractor(name, Inception)
    return name


@dataclass(kw_only=True)
class FeatureNetwork:
    """A feature network of torch-fidelity, by its registered name."""

    name: str
    weights: Path | None = None
    layers: tuple[str, str] = ("2048", "logits_unbiased")  # for FID, KID, precision and recall; for the Inception Score
    classifies: bool = True  # without the classifier layer in its weights there is no Inception Score
    cache: Part = anew  # of features of any images
    bar: Callable[[str], Callable] = lambda name: iter

    @cached_property
    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def options(self) -> dict[str, Any]:
        return {
            "feature_extractor": self.name,
            "feature_extractor_weights_path": None if self.weights is None else str(self.weights),
            "cuda": self.device.type == "cuda",
            "batch_size": 64,
            "save_cpu_ram": True,  # no worker processes: the images are in memory
            "verbose": False,
            "rng_seed": 2020,
        }

    @cached_property
    def extractor(self):
        """The network. Raises ValueError where the weights are not those of Inception, OSError where they are missing and
        cannot be downloaded."""
        from advebm.vision import torch_fidelity

        try:
            return torch_fidelity.utils.create_feature_extractor(self.name, list(self.layers), **self.options)
        except urllib.error.URLError as error:
            raise OSError(
                f"Inception's weights are missing, and cannot be downloaded ({error}); see data/README.md"
            ) from error
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, AttributeError, EOFError, pickle.UnpicklingError) as error:
            raise wrong_weights(self.weights, error) from error

    @cached_property
    def about(self) -> str:
        """All that features depend on besides the images: the network, its weights, the library and the device."""
        weights = "its own" if self.weights is None else digest(self.weights)
        place = torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu"
        return f"{self.name}, weights {weights}, layers {self.layers}, torch-fidelity {version('torch-fidelity')}, {place}"

    @convolving("fp32")
    def features(self, x: np.ndarray, name: str) -> dict[str, Tensor]:
        """{layer: (N, D)} of uint8 images (N, H, W, C); `name` labels the progress bar. The features of each PART
        successive images are cached under a digest of the images."""
        from advebm.vision import torch_fidelity

        def extracted(part: np.ndarray) -> dict[str, Tensor]:
            options = {"input1": _Pixels(part), **self.options}
            return torch_fidelity.utils.extract_featuresdict_from_input_id(1, self.extractor, **options)

        def found(start: int) -> dict[str, Tensor]:
            part = np.ascontiguousarray(x[start : start + PART])
            key = f"features of {part.shape} {hashlib.sha256(part.data).hexdigest()}, {self.about}"
            made = self.cache(key, partial(extracted, part))
            if {len(values) for values in made.values()} != {len(part)}:
                raise ValueError("state/features: holds features of other images than its names say; remove the folder")
            return made

        parts = ranks.spread(found, range(0, len(x), PART), self.bar(name))
        return {layer: torch.cat([part[layer] for part in parts]) for layer in self.layers}


def inception_weights(spec: Features, root: Path) -> Path:
    """The file of Inception's weights: under the root or, of the default name, where torch-fidelity saves its download.
    Raises FileNotFoundError if it has another name and is not there: what is downloaded might be others."""
    weights = root / spec.inception
    if weights.exists():
        return weights
    if spec.inception != Features.inception:
        raise FileNotFoundError(f"{weights}: Inception's weights are missing; see data/README.md")
    return downloaded()


def downloaded() -> Path:
    """The file in which torch-fidelity saves the Inception weights that it downloads."""
    return Path(torch.hub.get_dir(), "checkpoints", Features.inception)


def wrong_weights(weights: Path | None, error: Exception) -> ValueError:
    """What to raise for a file that does not hold Inception's weights; by default it is the one that was downloaded."""
    file = weights or downloaded()
    reason = str(error).strip().splitlines()
    return ValueError(
        f"{file}: does not hold the weights of torch-fidelity's Inception ({type(error).__name__}"
        f"{': ' + reason[0][:100] if reason else ''}); remove it, or see data/README.md"
    )


def network(spec: Features, judge: nn.Module | None, channels: int, root: Path, **more: Any) -> FeatureNetwork:
    """The feature network that the spec names; more: fields of FeatureNetwork."""
    if spec.features == "judge":
        assert isinstance(judge, Classifier), "a judge is a classifier"
        return FeatureNetwork(name=register_judge(judge, channels), layers=("features", "logits"), **more)
    weights = inception_weights(spec, root)
    if not weights.exists():
        _ = FeatureNetwork(name=register_inception()).extractor  # downloads them
    try:
        with ZipFile(weights) as file:  # torch does not compare its checksums
            if damaged := file.testzip():
                raise ValueError(f"{damaged} was altered")
        classifier = torch.load(weights, weights_only=True, mmap=True)["fc.weight"]
    except Exception as error:  # torch raises many kinds for files that it did not write
        raise wrong_weights(weights, error) from error
    return FeatureNetwork(name=register_inception(), weights=weights, classifies=bool(classifier.any()), **more)
