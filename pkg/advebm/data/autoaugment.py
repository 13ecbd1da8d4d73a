"""AutoAugment's policy for CIFAR-10 (Cubuk et al. 2019), by torchvision, with a draw for each image."""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from advebm.data.images import to_pixels
from advebm.samplers.streams import Streams


@cache
def _transform(fill: float) -> Any:
    from advebm.vision import transforms

    class Given(transforms.AutoAugment):
        """AutoAugment with given draws: the sub-policy, which of its two operations to apply, and their signs."""

        def get_params(self, count):
            return self.given

    return Given(transforms.AutoAugmentPolicy.CIFAR10, fill=round(255 * fill) or None)


def autoaugment(x: Tensor, streams: Streams, fill: float = 0.0) -> Tensor:
    """Apply one of the 25 sub-policies to each image of x (B, C, H, W) in [0, 1]; computed in uint8 on x's device.

    Images with equal draws are transformed together. fill in [0, 1] is what enters where an image is moved.
    """
    transform = _transform(fill)
    chances = torch.tensor([[p for _, p, _ in policy] for policy in transform.policies], device=x.device)
    policy = streams.integers(len(chances), 1)
    skipped = streams.uniform(2) > chances[policy.squeeze(1)]
    signs = streams.integers(2, 2)
    draws, group = torch.cat([policy, skipped.long(), signs], 1).unique(dim=0, return_inverse=True)
    pixels = (x * 255).round().byte()
    for number, (chosen, *rest) in enumerate(draws.tolist()):
        members = group == number
        transform.given = chosen, torch.tensor(rest[:2]).double(), torch.tensor(rest[2:])
        pixels[members] = transform(pixels[members])
    return to_pixels(pixels).to(x.dtype)
