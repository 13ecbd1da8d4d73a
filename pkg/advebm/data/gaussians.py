"""Class Gaussians, from which the chains of JEM++ and Robust JEM start (Santurkar et al. 2019, Section 3.1)."""

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advebm.data.images import Images
from advebm.runtime import tensors
from advebm.samplers.streams import Streams


class Gaussians:
    """N(mean[y], factor[y] factor[y]') for each class; mean (K, D), factor (K, D, D) lower triangular, D = C H W."""

    def __init__(self, mean: Tensor, factor: Tensor, shape: tuple[int, ...]):
        self.mean, self.factor, self.shape = mean, factor, tuple(shape)

    @classmethod
    def fit(cls, images: Images, *, ridge: float, progress: Callable[[range], Iterable[int]] = iter) -> "Gaussians":
        """Fit each class of images in [0, 1] by maximum likelihood (covariance over N, plus ridge I).

        The Cholesky factors are computed in float64, class by class: memory is the result (K D^2 float32), the images of
        one class and three D x D matrices. Raises ValueError for a class without images.
        """
        shape = images.x.shape[3], *images.x.shape[1:3]
        y = images.labels().numpy()
        classes = int(y.max()) + 1
        dimensions = torch.Size(shape).numel()
        mean, factor = torch.empty(classes, dimensions), torch.empty(classes, dimensions, dimensions)
        for k in progress(range(classes)):
            x = images[y == k].pixels().flatten(1).double()
            if not len(x):
                raise ValueError(
                    f"class {k} has no training images; each of the classes 0..K-1 needs some for its Gaussian"
                )
            centred = x - x.mean(0)
            covariance = centred.T @ centred / len(x)
            covariance.diagonal().add_(ridge)
            mean[k], factor[k] = x.mean(0), torch.linalg.cholesky(covariance)
        return cls(mean, factor, shape)

    def sample(self, y: Tensor, streams: Streams, temperature: float = 1.0) -> Tensor:
        """Images (B, C, H, W) of the classes y (B,), with deviations of `temperature` times the Gaussian's, clamped to
        [0, 1], in float32 even under autocast. Synchronises the device if y is on a GPU."""
        z = temperature * streams.normal(self.mean.shape[1])
        x = torch.empty_like(z)
        with torch.autocast(z.device.type, enabled=False):
            for k in y.unique().tolist():
                chosen = (y == k).nonzero().squeeze(1).to(z.device, non_blocking=True)
                x[chosen] = self.mean[k] + z[chosen] @ self.factor[k].T
        return x.clamp(0, 1).view(-1, *self.shape)

    def leading(self, *, variance: float = 0.95, spread: float = 0.35) -> "Gaussians":
        """The Gaussians of each class's leading principal components, as few as have that part of its variance, with
        deviations `spread` times theirs (Mirza et al. 2024; released code: .005 sqrt(5000) of CIFAR-10's)."""
        factor = torch.empty_like(self.factor)
        for k, own in enumerate(self.factor):
            u, s, _ = torch.linalg.svd(own.double())  # the covariance is u diag(s^2) u'
            count = int((s.square().cumsum(0) / s.square().sum() < variance).sum()) + 1
            factor[k] = spread * u[:, :count] * s[:count] @ u[:, :count].T
        return Gaussians(self.mean, factor, self.shape)

    def start(self, streams: Streams, places: Tensor | None = None) -> Tensor:
        """Images of uniformly drawn classes: a start for chains on E(x). The streams may be on the CPU."""
        y = streams.integers(len(self.mean))
        return self.sample(y, streams.to(self.mean.device))

    def start_of_place(self, streams: Streams, places: Tensor) -> Tensor:
        """Images of the classes of places in a replay buffer (place i: i modulo K): a start for chains on E(x, y)."""
        return self.sample(places % len(self.mean), streams.to(self.mean.device))

    def save(self, path: Path) -> None:
        tensors.write(path, {"mean": self.mean, "factor": self.factor, "shape": torch.tensor(self.shape)}, {})

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu", *, about: Mapping[str, Any] | None = None) -> "Gaussians":
        """Read what `save` wrote. Raises FileNotFoundError, or ValueError for a damaged file, or where the classes or the
        shape of their images are not those of the prepared images that `about` describes."""
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such file; `advebm gaussians` fits the class Gaussians")
        try:
            found, _ = tensors.read(path)
            mean, factor, shape = found["mean"], found["factor"], found["shape"].tolist()
            classes, dimensions = mean.shape
            if len(shape) != 3 or math.prod(shape) != dimensions or factor.shape != (classes, dimensions, dimensions):
                raise ValueError(f"mean {[*mean.shape]}, factor {[*factor.shape]} and images {shape} do not fit")
            if not all(numbers.dtype == torch.float32 and numbers.isfinite().all() for numbers in (mean, factor)):
                raise ValueError("not all numbers are finite float32")
        except Exception as error:
            raise ValueError(
                f"{path}: is not a readable file of class Gaussians ({error}); run `advebm gaussians` again"
            ) from error
        if about is not None and (classes, shape) != (about["classes"], about["shape"]):
            raise ValueError(
                f"{path}: has {classes} classes of images {shape}, not {about['classes']} of {about['shape']}; it belongs "
                "to another study"
            )
        return cls(mean.to(device), factor.to(device), tuple(shape))
