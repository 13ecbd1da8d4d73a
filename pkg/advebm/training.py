"""Training: one loop over the batches of a method."""

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le, Lt
from pydantic import Discriminator
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from advebm.data.batches import Augmentation, Batch, Batches
from advebm.data.images import Images
from advebm.energy import conditional, marginal
from advebm.methods.base import Context, Loss, Method
from advebm.networks import Network, dead, frozen
from advebm.networks.norms import still
from advebm.networks.passes import Passes, autocast, convolving
from advebm.ranges import COLLAPSED, CORNERS, Count, Fraction, NonNegative, Positive, Precision, Steps
from advebm.runtime import ranks
from advebm.sharpness import SAM

Log = Callable[[int, dict[str, float]], None]
Keep = Callable[[int, dict[str, Tensor]], None]
Note = Callable[[dict[str, float]], None]
CHECK = 10  # steps between checks that the numbers are finite
PROBE = 100  # validation images whose outputs tell whether the network is dead
ATTACKED = 200  # validation images on which a method's attacks are tried


class Diverged(RuntimeError):
    """Training cannot continue: a number is not finite or exceeds its bound, the chains have collapsed or the network is
    dead."""

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step
        self.recoveries: list[dict] = []  # those that failed before


@dataclass(kw_only=True)
class SGD:
    name: Literal["sgd"]
    lr: Positive
    momentum: Fraction = 0.9
    weight_decay: NonNegative = 0.0
    nesterov: bool = False
    sam: SAM | None = None


@dataclass(kw_only=True)
class Adam:
    name: Literal["adam"]
    lr: Positive
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    weight_decay: NonNegative = 0.0
    sam: SAM | None = None


OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}


def built(spec: SGD | Adam, net: nn.Module, *, fused: bool = True) -> torch.optim.Optimizer:
    """torch's optimiser of that name, fused on a GPU unless `fused` is false."""
    numbers = {name: value for name, value in vars(spec).items() if name != "sam"}
    where = {"fused": True} if fused and next(net.parameters()).is_cuda else {}
    return OPTIMIZERS[numbers.pop("name")](net.parameters(), **where, **numbers)


@dataclass(kw_only=True)
class Schedule:
    """The factor of the learning rate at each step."""

    kind: Literal["constant", "linear", "cosine", "step"] = "constant"  # linear and cosine fall to 0 at the end
    warmup: Steps = 0  # steps over which the factor rises from 0 to 1
    milestones: tuple[Count, ...] = ()  # epochs at which the factor falls, for step
    factor: Positive = 0.1  # applied at each milestone, for step

    def __call__(self, step: int, steps_per_epoch: int, total: int) -> float:
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        if self.kind == "linear":
            return warm * (1 - step / total)
        if self.kind == "cosine":
            return warm * (1 + math.cos(math.pi * step / total)) / 2
        passed = sum(step >= epoch * steps_per_epoch for epoch in self.milestones) if self.kind == "step" else 0
        return warm * self.factor**passed


@dataclass(kw_only=True)
class Recovery:
    """When training diverges it is rolled back to the last record and continues with other parameters."""

    attempts: Steps = 3  # then training fails
    lr: Annotated[float, Gt(0), Le(1)] = 0.5  # multiplies the learning rate at each attempt
    steps: Annotated[float, Ge(1)] = 1.5  # multiplies the sampler's steps at each attempt, rounded up


@dataclass(kw_only=True)
class Training:
    """The parameters of training that all methods share."""

    epochs: Positive  # passes over the training images; may be a fraction
    batch: Count
    optimizer: Annotated[SGD | Adam, Discriminator("name")]
    schedule: Schedule = field(default_factory=Schedule)
    augmentation: Augmentation = field(default_factory=Augmentation)
    ema: Annotated[float, Ge(0), Lt(1)] = 0.0  # decay per step of the average of weights to keep; 0 keeps the last weights
    record_every: Count = 100  # steps between records
    precision: Precision = "tf32"  # of samplers and attacks; bf16 only where the hardware supports it
    loss_precision: Precision = "tf32"  # of the loss's passes
    energy_bound: Positive = 1.0e5  # training diverges if the loss or a logged number exceeds it
    recovery: Recovery = field(default_factory=Recovery)


def recovered(method: Method, training: Training, context: Context, attempt: int) -> tuple[Method, Training, Context]:
    """Method, training and context for a run that has diverged `attempt` times: a lower learning rate, more steps of the
    sampler, and other random numbers."""
    rule = training.recovery
    optimizer = replace(training.optimizer, lr=training.optimizer.lr * rule.lr**attempt)
    context = context._replace(seed=context.seed + 1_000_003 * attempt)
    return method.longer(rule.steps**attempt), replace(training, optimizer=optimizer), context


def fit(
    method: Method,
    net: Network,
    train: Images,
    validation: Images,
    training: Training,
    context: Context,
    *,
    log: Log,
    watch: Keep = lambda step, images: None,
    keep: Keep = lambda step, state: None,
    note: Note = lambda values: None,
    start: int = 0,
    state: dict[str, Tensor] | None = None,
    outliers: Images | None = None,
    progress: Callable[[range], Iterable[int]] = iter,
) -> Network:
    """Train `net` by `method`; returns the network to keep: the average of weights, or `net` itself without one.

    log(step, {"train/ce": ...}) receives the mean of each number since the last record, the method's scores on the
    validation images, its accuracies under attacks on some of them, and the changes of energy of this step's adversarial
    examples. watch(step, {name: images}) receives pictures. keep(step, state) receives a copy of everything from which a
    run resumes: with that `start` and `state` the network is the same as without an interruption. note({"train/ce": ...})
    receives the means every CHECK steps, to show. Several processes (runtime/ranks.py) share each batch; all of them call
    log, watch, keep and note. Raises Diverged at most CHECK steps after a number is not finite.
    """
    seed, device, extra = context.seed, context.device, (method.plain, method.other)
    batches = Batches(train, training.batch, training.augmentation, seed, device, outliers, *extra)
    total = max(1, round(training.epochs * batches.steps_per_epoch))
    method.begin(context._replace(steps=total, passes=Passes.on(context.device, training.precision)))
    optimizer = built(training.optimizer, net)
    average = copy.deepcopy(net).requires_grad_(False) if training.ema else None
    kept = average if average is not None else net
    losses = ranks.parallel(Losses(method, net, training.loss_precision))
    sums: dict[str, Tensor] = {}
    since = 0
    if state:
        restore(state, net, average, optimizer, method)

    net.train()
    for step in progress(range(start, total)):
        factor = training.schedule(step, batches.steps_per_epoch, total)
        for group in optimizer.param_groups:
            group["lr"] = training.optimizer.lr * factor

        batch = batches(step)
        last = (step + 1) % training.record_every == 0 or step + 1 == total
        with convolving(training.loss_precision):
            net.renew()
            loss = backward(losses, batch, step, optimizer, training.optimizer.sam)
        before = energies(net, batch, loss.x_adv) if last else {}
        optimizer.step()
        if average is not None:
            decay = min(training.ema, (step + 1) / (step + 10))  # a shorter average at first
            update_average(average, net, decay)

        sums = {name: sums.get(name, 0) + value.detach() for name, value in {"loss": loss.value, **loss.logs}.items()}
        since += 1
        if last or (step + 1) % CHECK == 0:
            means = ranks.mean({f"train/{name}": float(value) / since for name, value in sums.items()})
            check_finite(means, step, training.energy_bound)
            note(means)
        if last:
            shown = {"adversarial": loss.x_adv, "negatives": loss.x_neg, "data": batch.x}
            pictures = {name: ranks.gather(x.detach()) for name, x in shown.items() if x is not None}
            check_chains(pictures.get("negatives"), pictures.pop("data"), step)
            check_alive(net, validation[:PROBE], step)
            record = means
            sums, since = {}, 0
            record |= ranks.mean(changes(before, energies(net, batch, loss.x_adv)))
            record |= {f"validation/{name}": value for name, value in score(method, kept, validation).items()}
            record |= {f"{name}/accuracy": value for name, value in attacked(method, kept, validation[:ATTACKED]).items()}
            check_finite(record, step, training.energy_bound)
            log(step + 1, {**record, "train/lr": training.optimizer.lr * factor})
            watch(step + 1, {**pictures, **dict(method.images())})
            keep(step + 1, captured(net, average, optimizer, method))
    return kept.eval()


def backward(losses: nn.Module, batch: Batch, step: int, optimizer: torch.optim.Optimizer, sam: SAM | None) -> Loss:
    """The loss, with the weights' gradients of it; with `sam` those of the loss at other weights, on the same images."""
    loss = losses(batch, step)
    optimizer.zero_grad()
    loss.value.backward()
    if sam is not None:
        with sam.climbed(losses.parameters()), still(losses):
            optimizer.zero_grad()
            losses(batch, step).value.backward()
    return loss


class Losses(nn.Module):
    """The loss of a method as a module, as DistributedDataParallel needs it."""

    def __init__(self, method: Method, net: Network, precision: Precision):
        super().__init__()
        self.method, self.net, self.precision = method, net, precision

    def forward(self, batch: Batch, step: int) -> Loss:
        with autocast(self.precision, self.net):
            return self.method.loss(self.net, batch, step)


def captured(
    net: nn.Module, average: nn.Module | None, optimizer: torch.optim.Optimizer, method: Method
) -> dict[str, Tensor]:
    """A copy of everything from which a run resumes, by name. Random numbers need no state: see samplers/streams.py."""
    parts = {"net": net.state_dict(), "average": average.state_dict() if average else {}, "method": method.state_dict()}
    parts |= {f"optimizer {i}": values for i, values in optimizer.state_dict()["state"].items()}
    return {
        f"{part}/{name}": value.detach().clone()
        for part, values in parts.items()
        for name, value in values.items()
        if value is not None
    }


def restore(
    state: dict[str, Tensor], net: nn.Module, average: nn.Module | None, optimizer: torch.optim.Optimizer, method: Method
) -> None:
    """Load the state that `captured` returned."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        part, _, own = name.partition("/")
        parts.setdefault(part, {})[own] = value.clone()
    net.load_state_dict(parts["net"])
    if average is not None:
        average.load_state_dict(parts["average"])
    method.load_state_dict(parts.get("method", {}))
    slots = {int(part.split()[1]): values for part, values in parts.items() if part.startswith("optimizer")}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})
    for weight, own in optimizer.state.items():  # in the weight's memory format, as fused optimisers require
        own |= {name: torch.empty_like(weight).copy_(x) for name, x in own.items() if x.shape == weight.shape}


@torch.no_grad()
def update_average(average: nn.Module, net: nn.Module, decay: float) -> None:
    """average <- decay average + (1 - decay) net; buffers, such as running statistics, are copied."""
    weights = dict(net.named_parameters())
    lerp = get_ema_multi_avg_fn(decay)
    lerp(list(average.parameters()), [weights[n] for n, _ in average.named_parameters()], 0)
    for kept, new in zip(average.buffers(), net.buffers(), strict=True):
        kept.copy_(new)


def check_finite(record: dict[str, float], step: int, bound: float) -> None:
    """Raises Diverged for a number that is not finite or exceeds the bound."""
    for name, value in record.items():
        if not abs(value) <= bound:
            raise Diverged(
                f"training diverged at step {step + 1}: {name} is {value:.4g}, bound {bound:.4g}; "
                "use a lower learning rate, and more sampling steps or a higher energy_l2 where there are",
                step + 1,
            )


def check_chains(x_neg: Tensor | None, x: Tensor, step: int) -> None:
    """Raises Diverged if all negatives have become nearly the same image, or nearly all their pixels 0 or 1."""
    if x_neg is None or len(x) == 1:
        return
    inside, within = (((own > 0) & (own < 1)).double().mean().item() for own in (x_neg, x))
    if inside < CORNERS * within:
        raise Diverged(
            f"training diverged at step {step + 1}: the chains have left the images, {inside:.4g} of their pixels are "
            f"between 0 and 1, of the data's {within:.4g}; use a smaller step_size or clamp_grad",
            step + 1,
        )
    spread, data = x_neg.std(0).mean().item(), x.std(0).mean().item()
    if not spread > COLLAPSED * data:
        raise Diverged(
            f"training diverged at step {step + 1}: the chains have collapsed, their standard deviation is {spread:.4g}, "
            f"that of the data {data:.4g}; use more sampling steps, and more noise or a higher reinit where there are",
            step + 1,
        )


def check_alive(net: Network, images: Images, step: int) -> None:
    """Raises Diverged if the network gives all images the same outputs: it has no gradient that could change that."""
    if len(images.x) > 1 and dead(net, images.pixels(next(net.parameters()).device)):
        raise Diverged(
            f"training diverged at step {step + 1}: the network is dead, its outputs for {len(images.x)} validation images "
            "are the same; use a lower learning rate",
            step + 1,
        )


@torch.no_grad()
def score(method: Method, net: Network, images: Images, batch: int = 500) -> dict[str, float]:
    """Means over the images of the method's `score`, in evaluation mode."""
    device = next(net.parameters()).device

    def sums(start: int) -> dict[str, float]:
        part = images[start : start + batch]
        values = method.score(net, part.pixels(device), part.labels(device))
        return {name: value.sum().item() for name, value in values.items()}

    with frozen(net):
        parts = ranks.spread(sums, range(0, len(images.x), batch))
    return {name: sum(part[name] for part in parts) / len(images.x) for name in parts[0]}


def attacked(method: Method, net: Network, images: Images) -> dict[str, float]:
    """Means over the images of the method's `attacked`, in evaluation mode."""
    device = next(net.parameters()).device
    with frozen(net):
        found = method.attacked(net, images.pixels(device), images.labels(device))
    return {name: right.double().mean().item() for name, right in found.items()}


@torch.no_grad()
def energies(net: Network, batch: Batch, x_adv: Tensor | None) -> dict[str, tuple[float, float]]:
    """Mean energies (of the batch, of its adversarial examples): marginal and, for a classifier, joint."""
    if x_adv is None:
        return {}
    with frozen(net):
        f, f_adv = net(batch.x), net(x_adv)
    kinds = {"marginal": marginal.of} | ({"joint": lambda f: conditional.of(f, batch.y)} if f.shape[1] > 1 else {})
    return {name: (e(f).mean().item(), e(f_adv).mean().item()) for name, e in kinds.items()}


def changes(before: dict[str, tuple[float, float]], after: dict[str, tuple[float, float]]) -> dict[str, float]:
    """The change of energy by the attack, E(x_adv) - E(x), and of E(x_adv) by the optimiser (Zhu et al. 2021, Fig. 3)."""
    record = {}
    for name, (e, e_adv) in before.items():
        record[f"delta_x/{name}"] = e_adv - e
        record[f"delta_theta/{name}"] = after[name][1] - e_adv
    return record
