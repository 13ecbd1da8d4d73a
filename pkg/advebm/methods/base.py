"""The interface of training methods, and what several of them share."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import log
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from advebm.data.batches import Batch
from advebm.data.gaussians import Gaussians
from advebm.energy import Energy, Logits, conditional, marginal, posterior
from advebm.networks import Network
from advebm.networks.passes import Passes, View
from advebm.ranges import Fraction, NonNegative
from advebm.runtime import ranks
from advebm.samplers import Sampler
from advebm.samplers.buffer import Buffer, Replay, Start, uniform_start
from advebm.samplers.streams import Streams


class Loss(NamedTuple):
    """value: the scalar to minimise; logs: numbers to log; x_adv, x_neg: adversarial examples and negatives, or None."""

    value: Tensor
    logs: dict[str, Tensor]
    x_adv: Tensor | None = None
    x_neg: Tensor | None = None


class Context(NamedTuple):
    """What a method may need besides the batch."""

    seed: int
    shape: tuple[int, int, int]  # C, H, W
    classes: int
    gaussians: Gaussians | None
    device: torch.device | str
    steps: int = 1  # of the whole training
    passes: Passes = Passes()  # float32, without CUDA graphs


@dataclass(kw_only=True)
class Method:
    """Subclasses are dataclasses; their fields are the keys of their entry in params.yaml."""

    detector: ClassVar[str] = "energy"  # the key of energy.SCORES that detects out-distribution images
    networks: ClassVar[tuple[str, ...]] = ("wrn", "resnet")  # kinds that it can train
    shared: ClassVar[bool] = True  # whether several processes can train it together
    chains: ClassVar[bool] = False  # whether chains train its energy, see networks/norms.py

    @property
    def outliers(self) -> bool:
        """Whether batches need out-distribution images, x_out."""
        return False

    @property
    def plain(self) -> bool:
        """Whether batches need images without augmentation, x_plain."""
        return False

    @property
    def other(self) -> bool:
        """Whether batches need images beside those with classes, x_other."""
        return False

    def outputs(self, classes: int) -> int:
        """The number of logits of the network."""
        return classes

    def begin(self, context: Context) -> None:
        """Initialise the state, such as a replay buffer; called once before training."""
        self.context = context

    def streams(self, *key: int | str, count: int) -> Streams:
        """Random streams for the `count` images of a batch that this process has, a function of (seed, key)."""
        return Streams(self.context.seed, *key, ids=ranks.ids(count, self.context.device))

    @property
    def passes(self) -> Passes:
        """How chains, attacks and the loss pass through the network."""
        return self.context.passes

    def gaussians(self) -> Gaussians:
        """The class Gaussians. Raises ValueError if there are none."""
        if self.context.gaussians is None:
            raise ValueError("chains of this method start from the class Gaussians: name their file by --gaussians")
        return self.context.gaussians

    def loss(self, net: Network, batch: Batch, step: int) -> Loss:
        """The loss of a batch. Asked again in the same step, as by SAM at other weights, it has the same negatives, and the
        state does not advance again; attacks are part of the loss and of its weights."""
        raise NotImplementedError

    def score(self, net: Network, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Numbers of each image (B,); their means over the validation images are logged during training."""
        logits = net(x)
        return {"accuracy": (logits.argmax(1) == y).double(), "ce": posterior.of(logits, y)}

    def attacked(self, net: Network, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Whether images are classified correctly under attacks (B,), by name; their means over some validation images are
        logged during training, as NAME/accuracy."""
        return {}

    def longer(self, factor: float) -> "Method":
        """A copy whose chains have `factor` times as many steps, rounded up; itself if it has no chains."""
        return self

    def state_dict(self) -> dict[str, Tensor]:
        """The state from which training resumes."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        pass

    def images(self) -> Iterator[tuple[str, Tensor]]:
        """Images of the state, by name, to inspect during training."""
        return iter(())


@dataclass(kw_only=True)
class ReplayMethod(Method):
    """A method with the term p_x (E(x+) - E(x~)), x~ from chains in a replay buffer.

    energy_l2 is the weight of mean E(x+)^2 + E(x~)^2 (Du and Mordatch 2019, Eq. 4), which keeps the energies near 0.
    growth is the fraction of the training during which chains grow from one step to their full length. JEM, JEM++ and
    Robust JEM as published have 0 for both.
    """

    chains: ClassVar[bool] = True
    sampler: Sampler  # each method imports its own, and depends on the code of no other
    buffer: Replay = field(default_factory=Replay)
    p_x: NonNegative = 1.0
    energy_l2: NonNegative = 0.0
    growth: Fraction = 0.0

    def start(self) -> Start:
        """The start of the chains, by default U(0, 1)."""
        return uniform_start(self.context.shape, self.context.device)

    def descended(self, f: Logits, y: Tensor) -> Energy:
        """The energy that chains of classes y descend."""
        raise NotImplementedError

    def begin(self, context: Context) -> None:
        super().begin(context)
        self.replay = Buffer(self.buffer, self.start(), self.context.seed, self.context.device)
        self.drawn: tuple[int, tuple[Tensor, Tensor]] | None = None  # the last step, and its negatives

    def grown(self, step: int) -> Sampler:
        """The sampler of that step, shorter during `growth`."""
        part = (step + 1) / (self.growth * self.context.steps) if self.growth else 1.0
        return self.sampler.scaled(part) if part < 1 else self.sampler

    def longer(self, factor: float) -> "Method":
        return replace(self, sampler=self.sampler.scaled(factor))

    def negatives(self, f: View, count: int, step: int) -> tuple[Tensor, Tensor]:
        """x~ (B, C, H, W) and y~ (B,): draw chains from the buffer, continue them and store them again. The class of a
        chain is its place in the buffer modulo K. Again in the same step they are the same."""
        if self.drawn is not None and self.drawn[0] == step:
            return self.drawn[1]
        x, places = self.replay.draw(step, count)
        y = ranks.share(places) % self.context.classes
        x = self.grown(step)(self.descended(f, y), x, self.streams("negatives", step, count=count))
        self.replay.store(places, x)
        self.drawn = step, (x, y)
        return x, y

    def contrast(self, e_pos: Tensor, e_neg: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The term for energies E(x+), E(x~), each (B,), and its parts to log."""
        gap = e_pos.mean() - e_neg.mean()
        l2 = (e_pos**2).mean() + (e_neg**2).mean()
        return self.p_x * gap + self.energy_l2 * l2, {"energy": e_pos.mean(), "energy_gap": gap}

    def state_dict(self) -> dict[str, Tensor]:
        return self.replay.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.replay.load_state_dict(state)

    def images(self) -> Iterator[tuple[str, Tensor]]:
        yield "replay_buffer", self.replay.images


@dataclass(kw_only=True)
class JointMethod(ReplayMethod):
    """A method that trains p(y | x) and p(x) jointly: min CE(x, y) + p_x (E(x+) - E(x~)), where `positives`
    says which images are x+.

    Chains run on E(x), as published, or with `chain_energy: conditional` on E(x, y~), where y~ is the class of the chain
    and of the Gaussian that it may start from. (On a GPU each such start synchronises the device.)
    """

    informed: ClassVar[bool] = False  # whether chains start from class Gaussians
    positives: str  # which images are x+
    chain_energy: Literal["marginal", "conditional"] = "marginal"

    def start(self) -> Start:
        if not self.informed:
            return super().start()
        gaussians = self.gaussians()  # of uniformly drawn classes, or of the chains' classes
        return gaussians.start if self.chain_energy == "marginal" else gaussians.start_of_place

    def descended(self, f: Logits, y: Tensor) -> Energy:
        return marginal(f) if self.chain_energy == "marginal" else conditional(f, y)

    @property
    def plain(self) -> bool:
        return self.positives == "plain"

    @property
    def other(self) -> bool:
        return self.positives == "other"

    def apart(self, batch: Batch) -> list[Tensor]:
        """x+ if they are not among the images of the cross-entropy: one batch, or none."""
        x = batch.x_plain if self.plain else batch.x_other if self.other else None
        return [] if x is None else [x]

    def loss(self, net: Network, batch: Batch, step: int) -> Loss:
        """The loss of JEM and JEM++."""
        x, y = batch.x, batch.y
        with self.passes.sampling(net) as f:
            x_neg, _ = self.negatives(f, len(x), step)
        data = [*self.apart(batch), x]
        f_neg, *f_data = self.passes(net, x_neg, *data)  # the data last, for batch norm's running statistics
        ce = posterior.of(f_data[-1], y).mean()
        term, logs = self.contrast(marginal.of(f_data[0]), marginal.of(f_neg))
        return Loss(ce + term, {"ce": ce, **logs}, x_neg=x_neg)


@dataclass(kw_only=True)
class DensityMethod(Method):
    """A method that fits log p(x), the only output of its network, to images of 256 levels by maximum likelihood. Processes
    cannot share it: the first batch sets the network's scales, and random estimates are drawn for the whole batch."""

    shared: ClassVar[bool] = False

    def outputs(self, classes: int) -> int:
        return 1

    def dequantised(self, x: Tensor, *key: int | str) -> Tensor:
        """(255 x + u) / 256, u ~ U(0, 1): its density bounds the probability of the levels (Theis et al. 2016)."""
        return (255 * x + self.streams(*key, count=len(x)).uniform(*x.shape[1:])) / 256

    def bits_per_dim(self, energy: Tensor) -> Tensor:
        """-log2 P(levels) / D from E = -log p on [0, 1]^D."""
        return energy.detach() / (torch.Size(self.context.shape).numel() * log(2)) + 8

    def loss(self, net: Network, batch: Batch, step: int) -> Loss:
        energy = marginal(net)(self.dequantised(batch.x, "dequantise", step)).mean()
        return Loss(energy, {"bits_per_dim": self.bits_per_dim(energy)})

    def score(self, net: Network, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"bits_per_dim": self.bits_per_dim(marginal(net)(self.dequantised(x, "validation")))}
