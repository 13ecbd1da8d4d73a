"""Accuracy on test images, clean and under attack."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from advebm.data.images import Images
from advebm.energy import negative, posterior
from advebm.ranges import Count
from advebm.samplers.pgd import Attack
from advebm.samplers.streams import Streams


@dataclass(kw_only=True)
class Robustness:
    """Accuracy on the first n images of the split, clean and under the attack, which ascends the cross-entropy."""

    n: Count | None = None  # null: all
    split: Literal["validation", "test"] = "test"  # tune with validation
    attack: Attack


def robustness(
    net: nn.Module, images: Images, spec: Robustness, *, seed: int, batch: int = 500, progress: Callable = iter
) -> dict[str, Any]:
    """{clean, linf: {eps, pgd20}, n}: "linf" and "pgd20" after the attack's norm and steps; accuracies in [0, 1].

    The network is used in evaluation mode; an image counts as robust where it is right after the last step.
    """
    images = images[: spec.n or len(images.x)]
    device = next(net.parameters()).device
    clean = robust = 0
    for start in progress(range(0, len(images.x), batch)):
        part = images[start : start + batch]
        x, y = part.pixels(device), part.labels(device)
        streams = Streams(seed, "robustness", ids=torch.arange(start, start + len(x), device=device))
        x_adv = spec.attack(negative(posterior(net, y)), x, streams)
        with torch.no_grad():
            clean += (net(x).argmax(1) == y).sum().item()
            robust += (net(x_adv).argmax(1) == y).sum().item()
    n = len(images.x)
    attacked = {"eps": spec.attack.eps, f"pgd{spec.attack.steps}": robust / n}
    return {"clean": clean / n, spec.attack.norm: attacked, "n": n}
