"""Accuracy on test images, clean and under attack."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import MinLen
from torch import nn

from advebm.data.images import Images
from advebm.energy import conditional, negative, posterior
from advebm.ranges import Count
from advebm.samplers.pgd import Attack
from advebm.samplers.streams import Streams

ASCENDED = {"ce": posterior, "energy": conditional}


@dataclass(kw_only=True)
class Against(Attack):
    """An attack that ascends the cross-entropy, as usual, or E(x, y) alone: the energy attack (JT, Table 1)."""

    ascends: Literal["ce", "energy"] = "ce"
    restarts: Count = 1  # an image is robust where it is right after each of them


@dataclass(kw_only=True)
class Robustness:
    """Accuracy on the first n images of the split, clean and under each attack."""

    n: Count | None = None  # null: all
    split: Literal["validation", "test"] = "test"  # tune with validation
    attacks: Annotated[dict[str, Against], MinLen(1)]


def robustness(
    net: nn.Module, images: Images, spec: Robustness, *, seed: int, batch: int = 500, progress: Callable = iter
) -> dict[str, Any]:
    """{clean, linf: {eps, pgd20}, n, attacks: {name: {accuracy, norm, eps, steps, ascends, restarts}}}, in [0, 1].

    "linf" and "pgd20" stand for each norm and the name of the first attack of it.
    The network is used in evaluation mode; an image counts as robust where it is right after the last step. Accuracies
    are None where the network has no logits of classes.
    """
    images = images[: spec.n or len(images.x)]
    n, device = len(images.x), next(net.parameters()).device
    right = dict.fromkeys(["clean", *spec.attacks], 0)
    if net.outputs == 1:
        right = dict.fromkeys(right)
    for start in progress(range(0, n, batch)) if net.outputs > 1 else ():
        part = images[start : start + batch]
        x, y = part.pixels(device), part.labels(device)
        for name, attack in [("clean", None), *spec.attacks.items()]:
            streams = Streams(seed, "robustness", ids=torch.arange(start, start + len(x), device=device))
            robust = torch.ones_like(y, dtype=torch.bool)
            for _ in range(attack.restarts if attack else 1):
                moved = attack(negative(ASCENDED[attack.ascends](net, y)), x, streams) if attack else x
                with torch.no_grad():
                    robust &= net(moved).argmax(1) == y
            right[name] += robust.sum().item()
    accuracy = {name: None if count is None else count / n for name, count in right.items()}
    described = {
        name: {
            "accuracy": accuracy[name],
            **{key: getattr(a, key) for key in ("norm", "eps", "steps", "ascends", "restarts")},
        }
        for name, a in spec.attacks.items()
    }
    first: dict[str, Any] = {}
    for name, attack in spec.attacks.items():
        first.setdefault(attack.norm, {"eps": attack.eps, name: accuracy[name]})
    return {"clean": accuracy["clean"], **first, "n": n, "attacks": described}
