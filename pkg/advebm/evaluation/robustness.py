"""Accuracy on test images, clean and under attack."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Literal

import torch
from annotated_types import MinLen
from torch import Tensor

from advebm.data.images import Images
from advebm.energy import Energy, conditional, negative, unsaturated
from advebm.evaluation import intervals
from advebm.evaluation.result import Interval, Result
from advebm.evaluation.subject import Subject
from advebm.networks import Network
from advebm.networks.passes import Passes, View, convolving
from advebm.ranges import Count, Positive
from advebm.runtime import ranks
from advebm.runtime.parts import BATCH, SEED, Part, anew
from advebm.samplers.apgd import AutoPGD
from advebm.samplers.pgd import Attack
from advebm.samplers.streams import Streams


@dataclass(kw_only=True)
class Against(Attack):
    """An attack that ascends the cross-entropy, as usual, or E(x, y) alone, the energy attack (Zhu et al. 2021, Table 1);
    or that descends the cross-entropy to another class, drawn at random for each image."""

    ascends: Literal["ce", "energy", "target"] = "ce"
    restarts: Count = 1  # a robust image is classified correctly after each of them


@dataclass(kw_only=True)
class Curve:
    """Accuracy against the radius, by Auto-PGD on the cross-entropy; each radius starts from the result of the last."""

    radii: Annotated[list[Positive], MinLen(1)]  # increasing
    norm: Literal["linf", "l2"] = "linf"
    attack: AutoPGD = field(default_factory=lambda: AutoPGD(restarts=1))

    def __post_init__(self):
        if self.radii != sorted(self.radii):
            name = "robustness.curve.radii"
            raise ValueError(f"{name}: {self.radii} must increase: each radius starts from the result of the last")


@dataclass(kw_only=True)
class Robustness:
    """Accuracy on the first n images of the split, clean and under each attack."""

    n: Count | None = None  # null: all
    split: Literal["validation", "test"] = "test"  # tune with validation
    attacks: Annotated[dict[str, Against], MinLen(1)]
    curve: Curve

    def measure(self, subject: Subject, part: Part) -> "tuple[RobustnessResult, None]":
        images, bar = subject.images(self.split), subject.bar("robustness")
        return robustness(subject.net, images, self, seed=SEED, part=part, progress=bar), None


@dataclass(kw_only=True)
class UnderAttack:
    """Accuracy under an attack, and the attack's parameters."""

    accuracy: float | None
    ci: Interval | None = None
    norm: str
    eps: float
    steps: int
    ascends: str
    restarts: int


@dataclass(kw_only=True)
class AgainstRadius:
    """Accuracy and mean cross-entropy at each radius."""

    norm: str
    eps: list[float]
    accuracy: list[float | None]
    loss: list[float | None]


@dataclass(kw_only=True)
class RobustnessResult(Result):
    """Accuracies in [0, 1]; None where the network has no class logits."""

    clean: float | None
    clean_ci: Interval | None = None
    first: dict[str, dict[str, float | None]]  # {norm: {eps, NAME: accuracy}} of the first attack by that norm
    n: int
    attacks: dict[str, UnderAttack]
    curve: AgainstRadius
    warnings: list[str]

    def json(self) -> dict[str, Any]:
        content = super().json()
        first = content.pop("first")
        return {**{key: content.pop(key) for key in ("clean", "clean_ci")}, **first, **content}

    @classmethod
    def read(cls, content: dict[str, Any]) -> "RobustnessResult":
        return super().read(content | {"first": {norm: content[norm] for norm in ("linf", "l2") if norm in content}})


def descended(f: View, y: Tensor, ascends: str, streams: Streams) -> Energy:
    """The energy that an attack on images of classes y (B,) descends."""
    if ascends == "target":
        return unsaturated(f, (y + 1 + streams.integers(f.outputs - 1)) % f.outputs)
    return negative({"ce": unsaturated, "energy": conditional}[ascends](f, y))


@convolving("fp32")
def robustness(
    net: Network,
    images: Images,
    spec: Robustness,
    *,
    seed: int,
    batch: int = BATCH,
    part: Part = anew,
    progress: Callable = iter,
) -> RobustnessResult:
    """Accuracy on the images, clean, under each attack, and against the radius. The network is used in evaluation mode. An
    image is robust if it is classified correctly after the last step of every restart."""
    images = images[: spec.n or len(images.x)]
    n, device = len(images.x), next(net.parameters()).device
    radii, passes = [0.0, *spec.curve.radii], Passes.on(device, "tf32")

    def attacked(x: Tensor, y: Tensor, ids: Tensor, attack: Against | None) -> Tensor:
        """Whether each image is classified correctly after every restart, (B,)."""
        streams = Streams(seed, "robustness", ids=ids)
        robust = torch.ones_like(y, dtype=torch.bool)
        for _ in range(attack.restarts if attack else 1):
            with passes.sampling(net) as f:
                moved = attack(descended(f, y, attack.ascends, streams), x, streams) if attack else x
            with torch.no_grad():
                robust &= net(moved).argmax(1) == y
        return robust

    def against_radius(x: Tensor, y: Tensor, ids: Tensor) -> Tensor:
        """Whether each image is classified correctly, and its loss, at each radius, float64 (2, radii, B)."""
        moved, robust, rows = x, torch.ones_like(y, dtype=torch.bool), []
        for i, eps in enumerate(radii):
            if eps:
                streams = Streams(seed, "curve", i, ids=ids)
                with passes.sampling(net) as f:
                    energy = descended(f, y, "ce", streams)
                    moved = spec.curve.attack(energy, x, streams, eps=eps, norm=spec.curve.norm, start=moved)
            with torch.no_grad():
                robust = robust & (net(moved).argmax(1) == y)
                rows.append(torch.stack([robust.double(), unsaturated(net, y)(moved).double()]))
        return torch.stack(rows, 1)

    def counted(start: int) -> dict[str, Tensor]:
        """How many images of a batch are correct after each attack; at each radius, with the sum of losses, (2, radii)."""
        x, y = images[start : start + batch].pixels(device), images[start : start + batch].labels(device)
        makers: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"clean": partial(attacked, attack=None)}
        makers |= {name: partial(attacked, attack=attack) for name, attack in spec.attacks.items()}
        makers["curve"] = against_radius
        ids = torch.arange(start, start + len(x), device=device)
        found = {name: part(f"{name}, {batch} from {start}", partial(f, x, y, ids)) for name, f in makers.items()}
        return {name: values.sum(-1).cpu() for name, values in found.items()}

    parts = ranks.spread(counted, range(0, n, batch) if net.outputs > 1 else (), progress)
    right = {name: sum(int(counts[name]) for counts in parts) for name in ["clean", *spec.attacks]}
    none = torch.zeros(2, len(radii), dtype=torch.float64)
    robust, losses = sum((counts["curve"] for counts in parts), start=none).tolist()

    def share(count: float) -> float | None:
        return count / n if net.outputs > 1 else None

    def interval(count: int) -> list[float] | None:
        return intervals.proportion(count / n, n) if net.outputs > 1 else None

    described: dict[str, UnderAttack] = {}
    first: dict[str, dict[str, float | None]] = {}
    for name, attack in spec.attacks.items():
        numbers = {key: getattr(attack, key) for key in ("norm", "eps", "steps", "ascends", "restarts")}
        described[name] = UnderAttack(accuracy=share(right[name]), ci=interval(right[name]), **numbers)
        first.setdefault(attack.norm, {"eps": attack.eps, name: share(right[name])})
    accuracy, loss = [share(count) for count in robust], [share(total) for total in losses]
    return RobustnessResult(
        clean=share(right["clean"]),
        clean_ci=interval(right["clean"]),
        first=first,
        n=n,
        attacks=described,
        curve=AgainstRadius(norm=spec.curve.norm, eps=radii, accuracy=accuracy, loss=loss),
        warnings=masked(radii, [count / n for count in robust], [total / n for total in losses]),
    )


def masked(radii: list[float], accuracy: list[float], loss: list[float]) -> list[str]:
    """Signs that gradients are masked (Athalye et al. 2018): the loss does not increase with the radius."""
    return [
        f"the loss does not rise from radius {radii[i]:.3g} to {radii[i + 1]:.3g}, where {accuracy[i + 1]:.3g} are right"
        for i in range(len(radii) - 1)
        if accuracy[i + 1] > 0 and loss[i + 1] <= 1.0001 * loss[i]
    ]
