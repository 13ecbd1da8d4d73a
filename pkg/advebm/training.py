"""Training: one flat loop over the batches of a method."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Lt
from pydantic import Discriminator
from torch import Tensor, nn

from advebm.data.batches import Augmentation, Batch, Batches
from advebm.data.images import Images
from advebm.energy import conditional, given, marginal
from advebm.methods.base import Context, Method
from advebm.networks import frozen
from advebm.ranges import Count, Fraction, NonNegative, Positive, Steps

Log = Callable[[int, dict[str, float]], None]
Watch = Callable[[int, dict[str, Tensor]], None]


class Diverged(RuntimeError):
    """Training cannot go on: a loss that is not finite, or energies past the bound."""


@dataclass(kw_only=True)
class SGD:
    name: Literal["sgd"]
    lr: Positive
    momentum: Fraction = 0.9
    weight_decay: NonNegative = 0.0
    nesterov: bool = False


@dataclass(kw_only=True)
class Adam:
    name: Literal["adam"]
    lr: Positive
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    weight_decay: NonNegative = 0.0


OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}


@dataclass(kw_only=True)
class Schedule:
    """The learning rate as a factor of its full value, by progress in steps and epochs."""

    kind: Literal["constant", "linear", "cosine", "step"] = "constant"  # linear and cosine fall to 0 at the end
    warmup: Steps = 0  # steps over which the factor rises from 0 to 1
    milestones: tuple[Count, ...] = ()  # epochs, for step
    factor: Positive = 0.1  # at each milestone, for step

    def __call__(self, step: int, steps_per_epoch: int, total: int) -> float:
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        if self.kind == "linear":
            return warm * (1 - step / total)
        if self.kind == "cosine":
            return warm * (1 + math.cos(math.pi * step / total)) / 2
        passed = sum(step >= epoch * steps_per_epoch for epoch in self.milestones) if self.kind == "step" else 0
        return warm * self.factor**passed


@dataclass(kw_only=True)
class Training:
    """How a network is trained, whatever the method."""

    epochs: Positive  # passes over the training images; may be a fraction
    batch: Count
    optimizer: Annotated[SGD | Adam, Discriminator("name")]
    schedule: Schedule = field(default_factory=Schedule)
    augmentation: Augmentation = field(default_factory=Augmentation)
    ema: Annotated[float, Ge(0), Lt(1)] = 0.0  # decay a step of the average of weights that is kept; 0 keeps the last
    record_every: Count = 100  # steps between records of the curves
    energy_bound: Positive = 1.0e5  # a loss or logged number past it is divergence


def fit(
    method: Method,
    net: nn.Module,
    train: Images,
    validation: Images,
    training: Training,
    context: Context,
    *,
    log: Log,
    watch: Watch = lambda step, images: None,
    outliers: Images | None = None,
    progress: Callable[[range], Iterator[int]] = iter,
) -> nn.Module:
    """Train `net` by `method`; returns the network to keep: the average of weights, or `net` itself without one.

    log(step, {"train/ce": ...}) gets the mean of each number since the last record, the method's scores on the
    validation images, and the changes of energy of this step's adversarial examples; watch(step, {name: images}) gets
    pictures of the state. Raises Diverged.
    """
    batches = Batches(train, training.batch, training.augmentation, context.seed, context.device, outliers)
    total = max(1, round(training.epochs * batches.steps_per_epoch))
    method.begin(context)
    spec = vars(training.optimizer).copy()
    optimizer = OPTIMIZERS[spec.pop("name")](net.parameters(), **spec)
    average = copy.deepcopy(net).requires_grad_(False) if training.ema else None
    kept = average if average is not None else net
    sums: dict[str, Tensor] = {}
    since = 0

    net.train()
    for step in progress(range(total)):
        factor = training.schedule(step, batches.steps_per_epoch, total)
        for group in optimizer.param_groups:
            group["lr"] = training.optimizer.lr * factor

        batch = batches(step)
        loss = method.loss(net, batch, step)
        last = (step + 1) % training.record_every == 0 or step + 1 == total
        before = energies(net, batch, loss.x_adv) if last else None
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
        if average is not None:
            decay = min(training.ema, (step + 1) / (step + 10))  # a shorter memory at first, as there is less to recall
            update_average(average, net, decay)

        sums = {name: sums.get(name, 0) + value.detach() for name, value in {"loss": loss.value, **loss.logs}.items()}
        since += 1
        if last:
            record = {f"train/{name}": float(value) / since for name, value in sums.items()}
            sums, since = {}, 0
            record |= changes(before, energies(net, batch, loss.x_adv))
            record |= {f"validation/{name}": value for name, value in score(method, kept, validation).items()}
            check_finite(record, step, training.energy_bound)
            log(step + 1, {**record, "train/lr": training.optimizer.lr * factor})
            pictures = {"adversarial": loss.x_adv, "negatives": loss.x_neg, **dict(method.images())}
            watch(step + 1, {name: x for name, x in pictures.items() if x is not None})
    return kept.eval()


@torch.no_grad()
def update_average(average: nn.Module, net: nn.Module, decay: float) -> None:
    """average <- decay average + (1 - decay) net; what is not floating point, and running statistics, is copied."""
    weights = dict(net.named_parameters())
    torch._foreach_lerp_(list(average.parameters()), [weights[n] for n, _ in average.named_parameters()], 1 - decay)
    for kept, new in zip(average.buffers(), net.buffers(), strict=True):
        kept.copy_(new)


def check_finite(record: dict[str, float], step: int, bound: float) -> None:
    for name, value in record.items():
        if not abs(value) <= bound:
            raise Diverged(
                f"training diverged at step {step + 1}: {name} is {value:.4g}, bound {bound:.4g}; "
                "lower the learning rate, take more sampling steps, or raise energy_l2"
            )


@torch.no_grad()
def score(method: Method, net: nn.Module, images: Images, batch: int = 500) -> dict[str, float]:
    """Means over the images of what the method's `score` says of the network, in evaluation mode."""
    device = next(net.parameters()).device
    sums: dict[str, float] = {}
    with frozen(net):
        for start in range(0, len(images.x), batch):
            part = images[start : start + batch]
            for name, values in method.score(net, part.pixels(device), part.labels(device)).items():
                sums[name] = sums.get(name, 0.0) + values.sum().item()
    return {name: value / len(images.x) for name, value in sums.items()}


@torch.no_grad()
def energies(net: nn.Module, batch: Batch, x_adv: Tensor | None) -> dict[str, tuple[float, float]]:
    """Mean energies (of the batch, of its adversarial examples), marginal and, where there are class logits, joint."""
    if x_adv is None:
        return {}
    with frozen(net):
        f, f_adv = given(net(batch.x)), given(net(x_adv))
    kinds = {"marginal": marginal} | ({"joint": lambda f: conditional(f, batch.y)} if f(batch.x).shape[1] > 1 else {})
    return {name: (e(f)(batch.x).mean().item(), e(f_adv)(x_adv).mean().item()) for name, e in kinds.items()}


def changes(before: dict[str, tuple[float, float]], after: dict[str, tuple[float, float]]) -> dict[str, float]:
    """The change of energy by the attack, E(x_adv) - E(x), and of E(x_adv) by the step of the optimiser (JT, Fig. 3)."""
    record = {}
    for name, (e, e_adv) in before.items():
        record[f"delta_x/{name}"] = e_adv - e
        record[f"delta_theta/{name}"] = after[name][1] - e_adv
    return record
