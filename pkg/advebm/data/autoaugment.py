"""AutoAugment's policy for CIFAR-10 (Cubuk et al. 2019), by torchvision, an own draw for each image of a batch."""

from functools import cache

import torch
from torch import Tensor

from advebm.data.images import to_pixels
from advebm.samplers.streams import Streams


@cache
def _transform():
    from advebm.vision import transforms

    class Given(transforms.AutoAugment):
        """AutoAugment whose sub-policy, and which of its two operations are applied with which sign, are given."""

        def get_params(self, count):
            return self.given

    return Given(transforms.AutoAugmentPolicy.CIFAR10)


def autoaugment(x: Tensor, streams: Streams) -> Tensor:
    """Images x (B, C, H, W) in [0, 1], each by one of the 25 sub-policies; computed in uint8 where x is.

    Images with equal draws go through torchvision together.
    """
    transform = _transform()
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
