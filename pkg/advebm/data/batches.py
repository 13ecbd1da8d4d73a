"""Batches: the whole set in memory on the device, augmented there, a function of (seed, step)."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from advebm.data.autoaugment import autoaugment
from advebm.data.images import Images, to_pixels
from advebm.ranges import NonNegative, Steps
from advebm.runtime import ranks
from advebm.samplers.streams import Streams


class Batch(NamedTuple):
    """x (B, C, H, W) in [0, 1]; y (B,) class indices; x_out like x, out-distribution images, or None; x_plain, the images
    of x without augmentation but for its noise, or None."""

    x: Tensor
    y: Tensor
    x_out: Tensor | None = None
    x_plain: Tensor | None = None


@dataclass(kw_only=True)
class Augmentation:
    """What is done to a training image, in this order."""

    pad: Steps = 0  # reflect-pad by so many pixels and crop back at random
    flip: bool = False  # left to right, half of the time
    autoaugment: bool = False  # the policy for CIFAR-10
    cutout: Steps = 0  # side of a grey square about a random pixel (DeVries and Taylor 2017)
    noise: NonNegative = 0.0  # standard deviation of N(0, noise), images in [0, 1]; the sum is not clamped

    def __call__(self, x: Tensor, streams: Streams) -> Tensor:
        _, channels, height, width = x.shape
        if self.pad:
            rows = streams.integers(2 * self.pad + 1, 1) + torch.arange(height, device=x.device)
            columns = streams.integers(2 * self.pad + 1, 1) + torch.arange(width, device=x.device)
            x = torch.nn.functional.pad(x, (self.pad,) * 4, mode="reflect")
            x = x.gather(2, rows[:, None, :, None].expand(-1, channels, -1, x.shape[3]))
            x = x.gather(3, columns[:, None, None, :].expand(-1, channels, height, -1))
        if self.flip:
            x = torch.where(streams.uniform(1, 1, 1) < 0.5, x.flip(3), x)
        if self.autoaugment:
            x = autoaugment(x, streams)
        if self.cutout:
            row, column = (streams.integers(side, 1, 1, 1) for side in (height, width))
            before = self.cutout // 2
            top, left = row - before, column - before
            rows = torch.arange(height, device=x.device).view(1, 1, -1, 1)
            columns = torch.arange(width, device=x.device)
            inside = (rows >= top) & (rows < top + self.cutout) & (columns >= left) & (columns < left + self.cutout)
            x = x.masked_fill(inside, 0.5)
        if self.noise:
            x = x + self.noise * streams.normal(*x.shape[1:])
        return x


class Draws:
    """draws(step) is the images of that step, this process's share, and their places: epochs are permutations of the set,
    their last partial batch dropped. `key` tells the random streams of one set from those of another."""

    def __init__(
        self, images: Images, size: int, augmentation: Augmentation, key: tuple[int | str, ...], device: torch.device | str
    ):
        if size > len(images.x):
            raise ValueError(f"a batch of {size} is larger than the set of {len(images.x)} images")
        if augmentation.pad >= min(images.x.shape[1:3]):
            raise ValueError(
                f"augmentation.pad {augmentation.pad} must be less than the images' side {min(images.x.shape[1:3])}"
            )
        self.x = torch.from_numpy(images.x).permute(0, 3, 1, 2).contiguous().to(device)
        self.size, self.augmentation, self.key = size, augmentation, key
        self.steps_per_epoch = len(self.x) // size
        self.epoch = None

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        chosen = self.chosen(step)
        streams = Streams(*self.key, "augmentation", self.epoch, ids=chosen)
        return self.augmentation(to_pixels(self.x[chosen]), streams), chosen

    def plain(self, step: int) -> Tensor:
        """The images of that step with the augmentation's noise alone."""
        chosen, noise = self.chosen(step), Augmentation(noise=self.augmentation.noise)
        return noise(to_pixels(self.x[chosen]), Streams(*self.key, "plain", self.epoch, ids=chosen))

    def chosen(self, step: int) -> Tensor:
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self.epoch:
            order = Streams(*self.key, "epoch", epoch, ids=torch.zeros(1)).uniform(len(self.x)).argsort(stable=True)
            self.epoch, self.order = epoch, order.squeeze(0).to(self.x.device)
        return ranks.share(self.order[place * self.size : (place + 1) * self.size])


class Batches:
    """batches(step) is the batch of that step: as many out-distribution images, where there are any, as images; x_plain
    where `plain` asks for it."""

    def __init__(
        self,
        images: Images,
        size: int,
        augmentation: Augmentation,
        seed: int,
        device: torch.device | str,
        outliers: Images | None = None,
        plain: bool = False,
    ):
        self.plain = plain
        self.draws = Draws(images, size, augmentation, (seed,), device)
        self.y = images.labels(device)
        self.outliers = None
        if outliers is not None:
            self.outliers = Draws(outliers, size, augmentation, (seed, "outliers"), device)
        self.steps_per_epoch = self.draws.steps_per_epoch

    def __call__(self, step: int) -> Batch:
        x, chosen = self.draws(step)
        x_out = None if self.outliers is None else self.outliers(step)[0]
        return Batch(x, self.y[chosen], x_out, self.draws.plain(step) if self.plain else None)
