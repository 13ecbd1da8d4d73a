"""Batches as functions of (seed, step): the whole set is kept and augmented on the device."""

from copy import copy
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from advebm.data.autoaugment import autoaugment
from advebm.data.images import Images, to_pixels
from advebm.ranges import Fraction, NonNegative, Steps
from advebm.runtime import ranks
from advebm.samplers.streams import Streams


class Batch(NamedTuple):
    """x (B, C, H, W) in [0, 1]; y (B,) class indices; x_out, out-distribution images like x, or None; x_plain, the images
    of x with no augmentation but the noise, or None; x_other, other images of the set, or None."""

    x: Tensor
    y: Tensor
    x_out: Tensor | None = None
    x_plain: Tensor | None = None
    x_other: Tensor | None = None


@dataclass(kw_only=True)
class Augmentation:
    """The augmentations of a training image, in this order."""

    pad: Steps = 0  # pixels of padding, then a random crop to the original size
    flip: bool = False  # mirror horizontally with probability 1/2
    autoaugment: bool = False  # the policy for CIFAR-10
    cutout: Steps = 0  # side in pixels of a grey square around a random pixel (DeVries and Taylor 2017)
    fill: Fraction | None = None  # what enters the image by `pad`, `autoaugment` and `cutout`; null: reflection, 0 and 1/2
    noise: NonNegative = 0.0  # standard deviation of Gaussian noise, images in [0, 1]; the sum is not clamped

    def __call__(self, x: Tensor, streams: Streams) -> Tensor:
        _, channels, height, width = x.shape
        if self.pad:
            rows = streams.integers(2 * self.pad + 1, 1) + torch.arange(height, device=x.device)
            columns = streams.integers(2 * self.pad + 1, 1) + torch.arange(width, device=x.device)
            mode = "reflect" if self.fill is None else "constant"
            x = torch.nn.functional.pad(x, (self.pad,) * 4, mode=mode, value=self.fill)
            x = x.gather(2, rows[:, None, :, None].expand(-1, channels, -1, x.shape[3]))
            x = x.gather(3, columns[:, None, None, :].expand(-1, channels, height, -1))
        if self.flip:
            x = torch.where(streams.uniform(1, 1, 1) < 0.5, x.flip(3), x)
        if self.autoaugment:
            x = autoaugment(x, streams, self.fill or 0.0)
        if self.cutout:
            row, column = (streams.integers(side, 1, 1, 1) for side in (height, width))
            before = self.cutout // 2
            top, left = row - before, column - before
            rows = torch.arange(height, device=x.device).view(1, 1, -1, 1)
            columns = torch.arange(width, device=x.device)
            inside = (rows >= top) & (rows < top + self.cutout) & (columns >= left) & (columns < left + self.cutout)
            x = x.masked_fill(inside, 0.5 if self.fill is None else self.fill)
        if self.noise:
            x = x + self.noise * streams.normal(*x.shape[1:])
        return x


class Draws:
    """draws(step) is this process's share of that step's images (B, C, H, W) in [0, 1], and their indices (B,). An epoch is
    a permutation of the set without the last partial batch. `key` separates the random streams of several sets."""

    def __init__(
        self, images: Images, size: int, augmentation: Augmentation, key: tuple[int | str, ...], device: torch.device | str
    ):
        if size > len(images.x):
            raise ValueError(f"a batch of {size} is larger than the set of {len(images.x)} images")
        if augmentation.pad >= min(images.x.shape[1:3]):
            raise ValueError(
                f"augmentation.pad {augmentation.pad} must be less than the side of the images, {min(images.x.shape[1:3])}"
            )
        self.x = torch.from_numpy(images.x).permute(0, 3, 1, 2).contiguous().to(device)
        self.size, self.augmentation, self.key = size, augmentation, key
        self.steps_per_epoch = len(self.x) // size
        self.epoch = -1  # of `order`: none yet

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        chosen = self.chosen(step)
        streams = Streams(*self.key, "augmentation", self.epoch, ids=chosen)
        return self.augmentation(to_pixels(self.x[chosen]), streams), chosen

    def plain(self, step: int) -> Tensor:
        """The images of that step with no augmentation but the noise."""
        chosen, noise = self.chosen(step), Augmentation(noise=self.augmentation.noise)
        return noise(to_pixels(self.x[chosen]), Streams(*self.key, "plain", self.epoch, ids=chosen))

    def apart(self, *key: int | str) -> "Draws":
        """Other draws from the same images."""
        draws = copy(self)
        draws.key, draws.epoch = key, -1
        return draws

    def chosen(self, step: int) -> Tensor:
        """The indices (B,) of that step's images, this process's share."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self.epoch:
            order = Streams(*self.key, "epoch", epoch, ids=torch.zeros(1)).uniform(len(self.x)).argsort(stable=True)
            self.epoch, self.order = epoch, order.squeeze(0).to(self.x.device)
        return ranks.share(self.order[place * self.size : (place + 1) * self.size])


class Batches:
    """batches(step) is the batch of that step, with as many out-distribution images as images if there are `outliers`, and
    with x_plain if `plain`, with x_other if `other`."""

    def __init__(
        self,
        images: Images,
        size: int,
        augmentation: Augmentation,
        seed: int,
        device: torch.device | str,
        outliers: Images | None = None,
        plain: bool = False,
        other: bool = False,
    ):
        self.plain = plain
        self.draws = Draws(images, size, augmentation, (seed,), device)
        self.y = images.labels(device)
        self.other = self.draws.apart(seed, "other") if other else None
        self.outliers = None
        if outliers is not None:
            self.outliers = Draws(outliers, size, augmentation, (seed, "outliers"), device)
        self.steps_per_epoch = self.draws.steps_per_epoch

    def __call__(self, step: int) -> Batch:
        x, chosen = self.draws(step)
        x_out = None if self.outliers is None else self.outliers(step)[0]
        x_other = None if self.other is None else self.other(step)[0]
        return Batch(x, self.y[chosen], x_out, self.draws.plain(step) if self.plain else None, x_other)
