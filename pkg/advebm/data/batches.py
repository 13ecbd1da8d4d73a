"""Batches: the whole set in memory on the device, augmented there, a function of (seed, step)."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from advebm.data.images import Images, to_pixels
from advebm.ranges import Count, NonNegative, Steps
from advebm.samplers.streams import Streams


class Batch(NamedTuple):
    """x (B, C, H, W) in [0, 1]; y (B,) class indices."""

    x: Tensor
    y: Tensor


@dataclass(kw_only=True)
class Augmentation:
    """What is done to a training image, in this order."""

    pad: Steps = 0  # reflect-pad by so many pixels and crop back at random
    flip: bool = False  # left to right, half of the time
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
        if self.noise:
            x = x + self.noise * streams.normal(*x.shape[1:])
        return x


class Batches:
    """batches(step) is the batch of that step: epochs are permutations of the set, their last partial batch dropped."""

    def __init__(self, images: Images, size: Count, augmentation: Augmentation, seed: int, device: torch.device | str):
        if size > len(images.x):
            raise ValueError(f"a batch of {size} is larger than the training set of {len(images.x)}")
        if augmentation.pad >= min(images.x.shape[1:3]):
            raise ValueError(
                f"augmentation.pad {augmentation.pad} must be less than the images' side {min(images.x.shape[1:3])}"
            )
        self.x = torch.from_numpy(images.x).permute(0, 3, 1, 2).contiguous().to(device)
        self.y = images.labels(device)
        self.size, self.augmentation, self.seed = size, augmentation, seed
        self.steps_per_epoch = len(self.x) // size
        self.epoch = None

    def __call__(self, step: int) -> Batch:
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self.epoch:
            order = Streams(self.seed, "epoch", epoch, ids=torch.zeros(1)).uniform(len(self.x)).argsort(stable=True)
            self.epoch, self.order = epoch, order.squeeze(0).to(self.x.device)
        chosen = self.order[place * self.size : (place + 1) * self.size]
        streams = Streams(self.seed, "augmentation", epoch, ids=chosen)
        return Batch(self.augmentation(to_pixels(self.x[chosen]), streams), self.y[chosen])
