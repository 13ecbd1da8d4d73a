"""AutoAttack as released by its authors (Croce and Hein 2020)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from advebm.data.images import Images
from advebm.evaluation import intervals
from advebm.evaluation.result import Interval, Result
from advebm.evaluation.subject import Subject
from advebm.networks import Network
from advebm.networks.passes import convolving
from advebm.ranges import TARGETED, Count, Positive
from advebm.runtime.parts import SEED, Part, anew, gathered

ATTACKS = ("apgd-ce", "apgd-t", "fab-t", "square")  # the standard version, in its order
NAMES = {"linf": "Linf", "l2": "L2"}
CHUNK = 100  # images at a time; fixed, because the attacks draw their random numbers by chunk


@dataclass(kw_only=True)
class AutoAttack:
    """The standard version on the first n images, within one radius for each norm."""

    n: Count = 1000
    split: Literal["validation", "test"] = "test"  # tune with validation
    eps: dict[Literal["linf", "l2"], Positive] = field(default_factory=lambda: {"linf": 8 / 255, "l2": 0.5})

    def measure(self, subject: Subject, part: Part) -> "tuple[AutoAttackResult, None]":
        images, bar = subject.images(self.split), subject.bar("autoattack")
        return autoattack(subject.net, images, self, seed=SEED, part=part, progress=bar), None


@dataclass(kw_only=True)
class Ball:
    """Accuracies in [0, 1] within a radius; None where the network has no class logits."""

    eps: float
    left: dict[str, float | None]  # clean, and after each of ATTACKS; keys of the JSON object
    accuracy: float | None  # after all attacks
    ci: Interval | None = None


@dataclass(kw_only=True)
class AutoAttackResult(Result):
    n: int
    balls: dict[str, Ball]  # by norm (linf or l2); keys of the JSON object
    warnings: list[str] = field(default_factory=list)

    def json(self) -> dict[str, Any]:
        content = super().json()
        balls = {norm: {"eps": ball.pop("eps"), **ball.pop("left"), **ball} for norm, ball in content.pop("balls").items()}
        return {"n": content.pop("n"), **balls, **content}

    @classmethod
    def read(cls, content: dict[str, Any]) -> "AutoAttackResult":
        balls = {norm: dict(content[norm]) for norm in NAMES if norm in content}
        left = {norm: {key: ball[key] for key in ("clean", *ATTACKS)} for norm, ball in balls.items()}
        return super().read(content | {"balls": {norm: ball | {"left": left[norm]} for norm, ball in balls.items()}})


def padded(x: Tensor) -> Tensor:
    """The images with black rows and columns up to a square of a side that the released attack can start on within L2: its
    first squares, a fifth of the side, must not end at the edge in part."""
    height, width = x.shape[2:]
    side = max(height, width)
    while (s := side // 5) > 1 and (side - 5 * s) // 2 + side // s * s > side:
        side += 1
    return torch.nn.functional.pad(x, (0, side - width, 0, side - height))


@convolving("fp32")
def autoattack(
    net: Network, images: Images, spec: AutoAttack, *, seed: int, part: Part = anew, progress: Callable = iter
) -> AutoAttackResult:
    """The accuracy after each attack. An attack runs only on images that all attacks before it left correct.

    None of a network with fewer than TARGETED logits.
    """
    images = images[: spec.n]
    n = len(images.x)
    if net.outputs < TARGETED:
        empty: dict[str, float | None] = dict.fromkeys(("clean", *ATTACKS))
        unknown: dict[str, Ball] = {norm: Ball(eps=eps, left=empty, accuracy=None) for norm, eps in spec.eps.items()}
        return AutoAttackResult(n=n, balls=unknown)
    makers: dict[str, Callable[[], Tensor]] = {
        f"{norm} {start}": partial(_chunk, net, images[start : start + CHUNK], norm, eps, seed)
        for norm, eps in spec.eps.items()
        for start in range(0, n, CHUNK)
    }
    found = dict(zip(makers, gathered(makers, part, progress), strict=True))
    balls: dict[str, Ball] = {}
    warnings = []
    for norm, eps in spec.eps.items():
        right = torch.cat([found[f"{norm} {start}"] for start in range(0, n, CHUNK)])
        share = right.double().mean(0).tolist()
        left = dict(zip(("clean", *ATTACKS), share, strict=True))
        balls[norm] = Ball(eps=eps, left=left, accuracy=share[-1], ci=intervals.proportion(share[-1], n))
        if share[-1] < share[-2]:
            warnings.append(f"{norm}: Square, by queries alone, fools {share[-2] - share[-1]:.3g} that gradients do not")
    return AutoAttackResult(n=n, balls=balls, warnings=warnings)


def _chunk(net: Network, images: Images, norm: str, eps: float, seed: int) -> Tensor:
    """Whether each image is classified correctly, clean and after each attack, bool (B, 5)."""
    import pyautoattack

    device = next(net.parameters()).device
    x, y = images.pixels(device), images.labels(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        height, width = x.shape[2:]
        cropped = lambda z: net(z[..., :height, :width])  # noqa: E731
        standard = pyautoattack.AutoAttack(cropped, norm=NAMES[norm], eps=eps, seed=seed, device=device)
        targets = min(9, net.outputs - 1)
        standard.apgd_targeted.n_target_classes = standard.fab.n_target_classes = targets
        with torch.no_grad():
            right = net(x).argmax(1) == y
        columns = [right]
        for attack in ATTACKS:
            right = right.clone()
            if right.any():
                standard.attacks_to_run = [attack]
                left = right.nonzero().squeeze(1)
                given = padded(x[left]) if attack == "square" else x[left]
                _, seen = standard.run_standard_evaluation(given, y[left], batch_size=len(left))
                right[left] = seen == y[left]
            columns.append(right)
    return torch.stack(columns, 1).cpu()
