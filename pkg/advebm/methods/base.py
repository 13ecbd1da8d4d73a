"""What a training method is."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from math import log
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from advebm.data.batches import Batch
from advebm.data.gaussians import Gaussians
from advebm.energy import Energy, Logits, conditional, marginal, posterior
from advebm.networks import Network
from advebm.networks.passes import Passes
from advebm.ranges import Fraction, NonNegative
from advebm.runtime import ranks
from advebm.samplers.buffer import Buffer, Replay, Start
from advebm.samplers.proximal import Proximal
from advebm.samplers.sgld import Langevin
from advebm.samplers.streams import Streams

Sample = Callable[[Tensor, Tensor, Streams], Tensor]  # chains at (B, C, H, W), their classes (B,), streams -> continued


class Loss(NamedTuple):
    """value: the scalar to descend; logs: numbers to record; x_adv, x_neg: images attacked and sampled, or None."""

    value: Tensor
    logs: dict[str, Tensor]
    x_adv: Tensor | None = None
    x_neg: Tensor | None = None


class Context(NamedTuple):
    """What a method may need beside the batch."""

    seed: int
    shape: tuple[int, int, int]  # C, H, W
    classes: int
    gaussians: Gaussians | None
    device: torch.device | str
    steps: int = 1  # of the whole training
    passes: Passes = Passes()  # full float32 and nothing kept


@dataclass(kw_only=True)
class Method:
    """Subclasses are dataclasses; their fields are the keys of their entry in params.yaml."""

    detector: ClassVar[str] = "energy"  # the score by which its networks tell out-distribution images: of energy.SCORES
    networks: ClassVar[tuple[str, ...]] = ("wrn", "resnet")  # the kinds that it can train
    shared: ClassVar[bool] = True  # whether several processes can train it together
    chains: ClassVar[bool] = False  # whether its energy is trained by chains, see networks/norms.py

    @property
    def outliers(self) -> bool:
        """Whether batches are to have out-distribution images."""
        return False

    @property
    def plain(self) -> bool:
        """Whether batches are to have images without augmentation."""
        return False

    def outputs(self, classes: int) -> int:
        """How many logits the network has."""
        return classes

    def begin(self, context: Context) -> None:
        """Called once before training; makes the state, such as a replay buffer."""
        self.context = context

    def streams(self, *key: int | str, count: int) -> Streams:
        """Random streams of the `count` images that this process has of a batch, a function of (seed, key)."""
        return Streams(self.context.seed, *key, ids=ranks.ids(count, self.context.device))

    @property
    def passes(self) -> Passes:
        """How the network is passed through in this training."""
        return self.context.passes

    def gaussians(self) -> Gaussians:
        """The class Gaussians. Raises ValueError where none were given."""
        if self.context.gaussians is None:
            raise ValueError("chains of this method start from the class Gaussians: name their file by --gaussians")
        return self.context.gaussians

    def loss(self, net: Network, batch: Batch, step: int) -> Loss:
        raise NotImplementedError

    def score(self, net: Network, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Numbers of each image (B,), whose means over the validation images are recorded while training goes on."""
        logits = net(x)
        return {"accuracy": (logits.argmax(1) == y).double(), "ce": posterior.of(logits, y)}

    def longer(self, factor: float) -> "Method":
        """The same with `factor` times as many steps of its chains, rounded up; itself where it has none."""
        return self

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        pass

    def images(self) -> Iterator[tuple[str, Tensor]]:
        """Pictures of the state, to be looked at while training goes on."""
        return iter(())


@dataclass(kw_only=True)
class ReplayMethod(Method):
    """A method with the term p_x (E(x+) - E(x~)), x~ from chains kept in a replay buffer.

    energy_l2 adds that many times mean E(x+)^2 + E(x~)^2 (Du and Mordatch 2019, Eq. 4), which keeps the energies near
    0; JEM, JEM++ and Robust JEM as published have 0. growth is the part of the training in which chains grow from one step
    to their full length; as published, 0.
    """

    chains: ClassVar[bool] = True
    sampler: Langevin | Proximal
    buffer: Replay = field(default_factory=Replay)
    p_x: NonNegative = 1.0
    energy_l2: NonNegative = 0.0
    growth: Fraction = 0.0

    def start(self) -> Start:
        """Where chains begin."""
        raise NotImplementedError

    def begin(self, context: Context) -> None:
        super().begin(context)
        self.replay = Buffer(self.buffer, self.start(), self.context.seed, self.context.device)

    def grown(self, step: int) -> Any:
        """The sampler of that step."""
        part = (step + 1) / (self.growth * self.context.steps) if self.growth else 1.0
        return self.sampler.scaled(part) if part < 1 else self.sampler

    def longer(self, factor: float) -> "Method":
        return replace(self, sampler=self.sampler.scaled(factor))

    def negatives(self, sample: Sample, count: int, step: int) -> tuple[Tensor, Tensor]:
        """x~ (B, C, H, W), y~ (B,): chains drawn from the buffer, continued by `sample`, and put back. The class of a place
        of the buffer, and so of the chain that is kept there, is the place modulo K."""
        x, places = self.replay.draw(step, count)
        y = ranks.share(places) % self.context.classes
        x = sample(x, y, self.streams("negatives", step, count=count))
        self.replay.store(places, x)
        return x, y

    def contrast(self, e_pos: Tensor, e_neg: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The term for energies E(x+), E(x~) of (B,), and its parts to record."""
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
    """A method that trains p(y | x) and p(x) at once, its chains on E(x), as published; or, `chain_energy: conditional`, on
    E(x, y~) with the class y~ of the Gaussian that a chain starts from, where it starts from one (on a GPU each fresh start
    then waits for its class)."""

    positives: str  # what x+ is
    chain_energy: Literal["marginal", "conditional"] = "marginal"

    def start(self) -> Start:
        """Class Gaussians, of classes drawn evenly or of the chains' own, unless a method says otherwise."""
        gaussians = self.gaussians()
        return gaussians.start if self.chain_energy == "marginal" else gaussians.start_of_place

    def descended(self, f: Logits, y: Tensor) -> Energy:
        """What the chains descend."""
        return marginal(f) if self.chain_energy == "marginal" else conditional(f, y)

    @property
    def plain(self) -> bool:
        return self.positives == "plain"


@dataclass(kw_only=True)
class DensityMethod(Method):
    """A method that fits log p(x), the one output of its network, to images of 256 levels. One process trains it: the
    network's first batch sets its scales, and its estimates are drawn for a batch at once."""

    shared: ClassVar[bool] = False

    def outputs(self, classes: int) -> int:
        return 1

    def dequantised(self, x: Tensor, *key: int | str) -> Tensor:
        """(255 x + u) / 256, u ~ U(0, 1): a density of it bounds the probability of the levels (Theis et al. 2016)."""
        return (255 * x + self.streams(*key, count=len(x)).uniform(*x.shape[1:])) / 256

    def bits_per_dim(self, energy: Tensor) -> Tensor:
        """-log2 P(levels) / D, of E = -log p on [0, 1]^D."""
        return energy.detach() / (torch.Size(self.context.shape).numel() * log(2)) + 8

    def score(self, net: Network, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"bits_per_dim": self.bits_per_dim(marginal(net)(self.dequantised(x, "validation")))}
