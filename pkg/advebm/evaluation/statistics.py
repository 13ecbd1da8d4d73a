"""FID, KID, precision and recall of any two sets of images; their features can be kept in a file instead of the images."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advebm.data.images import Images, arrays
from advebm.evaluation import kernel
from advebm.evaluation.features import FeatureNetwork
from advebm.evaluation.frechet import Gaussian, distance, fitted, jackknife
from advebm.evaluation.quality import precision_recall
from advebm.evaluation.result import Result
from advebm.runtime import disk


@dataclass(kw_only=True)
class Distances(Result):
    """Of one set to another, the reference; None where a set is known by its mean and covariance alone."""

    fid: float
    fid_se: float | None = None  # standard error, by the jackknife
    kid: float | None = None
    kid_se: float | None = None
    precision: float | None = None
    recall: float | None = None
    n: int | None
    reference_n: int | None


@dataclass
class Statistics:
    """The Gaussian fitted to the features of a set of images and, if they are known, the features z (N, D)."""

    gaussian: Gaussian
    z: Tensor | None = None

    @classmethod
    def of(cls, images: Images, using: FeatureNetwork, name: str) -> "Statistics":
        z = using.features(images.x, name)[using.layers[0]].to(using.device)
        return cls(fitted(z), z)

    def save(self, path: Path, using: FeatureNetwork) -> None:
        """Write an .npz file: mu and sigma, as other programs read them, features, and the network that computed them."""
        assert self.z is not None, "only features can be kept"
        file, numbers = io.BytesIO(), (self.gaussian.mean, self.gaussian.covariance, self.z)
        mu, sigma, z = (tensor.cpu().numpy() for tensor in numbers)
        np.savez(file, mu=mu, sigma=sigma, features=z, network=np.array(using.name))
        path.parent.mkdir(parents=True, exist_ok=True)
        disk.write(path, file.getvalue())

    @classmethod
    def load(cls, path: Path, using: FeatureNetwork) -> "Statistics | None":
        """Read what `save` wrote, or mu and sigma of another program; None for another file. Raises ValueError where they
        are damaged, or of another network than `using`."""
        content = _arrays(path)
        if not {"mu", "sigma"} <= set(content):
            return None
        mu, sigma, z = content["mu"], content["sigma"], content.get("features")
        d = mu.shape[-1] if mu.ndim else 0
        fit = mu.shape == (d,) and sigma.shape == (d, d) and (z is None or (z.ndim == 2 and z.shape[1] == d and len(z) > 1))
        if not fit or not all(a.dtype.kind == "f" and np.isfinite(a).all() for a in (mu, sigma, z) if a is not None):
            raise ValueError(f"{path}: mu, sigma and features must be finite, and of one length; it may be damaged")
        if "network" in content and (other := str(content["network"])) != using.name:
            raise ValueError(f"{path}: its features are of {other}, not of {using.name}; compute them again")
        mean, covariance = (torch.from_numpy(a).double().to(using.device) for a in (mu, sigma))
        features = None if z is None else torch.from_numpy(z).to(using.device)
        return cls(Gaussian(mean, covariance=covariance) if features is None else fitted(features), features)


def _arrays(path: Path) -> dict[str, Any]:
    """The arrays of an .npz file, without those of images; nothing where it is none."""
    if not path.is_file():
        return {}
    try:
        with arrays(path) as file:
            return {name: file[name] for name in ("mu", "sigma", "features", "network") if name in file}
    except Exception:  # numpy raises many kinds; whoever reads the file for images says what is wrong
        return {}


def between(a: Statistics, b: Statistics, using: FeatureNetwork) -> Distances:
    """The distances of a to the reference b. Raises ValueError where they have different features."""
    if a.gaussian.mean.shape != b.gaussian.mean.shape:
        lengths = [len(s.gaussian.mean) for s in (a, b)]
        raise ValueError(f"features have {lengths[0]} and {lengths[1]} dimensions: they are of different networks")
    sizes = {key: None if s.z is None else len(s.z) for key, s in (("n", a), ("reference_n", b))}
    found = Distances(fid=distance(a.gaussian, b.gaussian), n=sizes["n"], reference_n=sizes["reference_n"])
    if a.z is not None:
        found.fid_se = jackknife(a.z, b.gaussian)
    if a.z is not None and b.z is not None:
        found.kid, found.kid_se = kernel.distance(kernel.Features.of(a.z, None), kernel.Features.of(b.z, None))
        pair = precision_recall(a.z, b.z, using)
        found.precision, found.recall = pair["precision"], pair["recall"]
    return found
