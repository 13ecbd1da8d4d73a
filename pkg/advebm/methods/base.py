"""What a training method is."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from advebm.data.batches import Batch
from advebm.data.gaussians import Gaussians
from advebm.energy import Energy, marginal
from advebm.ranges import NonNegative
from advebm.samplers.buffer import Buffer, Replay, Start
from advebm.samplers.streams import Streams


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
    gaussians: Gaussians | None
    device: torch.device | str


@dataclass(kw_only=True)
class Method:
    """Subclasses are dataclasses; their fields are the keys of their entry in params.yaml."""

    def outputs(self, classes: int) -> int:
        """How many logits the network has."""
        return classes

    def begin(self, context: Context) -> None:
        """Called once before training; makes the state, such as a replay buffer."""
        self.context = context

    def streams(self, *key: int | str, count: int) -> Streams:
        """Random streams that are a function of (seed, key)."""
        return Streams(self.context.seed, *key, ids=torch.arange(count, device=self.context.device))

    def loss(self, net: nn.Module, batch: Batch, step: int) -> Loss:
        raise NotImplementedError

    def energy(self, net: nn.Module) -> Energy:
        """The energy that the trained network is evaluated by."""
        return marginal(net)

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
    0; JEM, JEM++ and Robust JEM as published have 0.
    """

    buffer: Replay = field(default_factory=Replay)
    p_x: NonNegative = 1.0
    energy_l2: NonNegative = 0.0

    def start(self) -> Start:
        """Where chains begin: class Gaussians, of classes drawn evenly, unless a method says otherwise."""
        if self.context.gaussians is None:
            raise ValueError("chains of this method start from the class Gaussians: name their file by --gaussians")
        return self.context.gaussians.start

    def begin(self, context: Context) -> None:
        super().begin(context)
        self.replay = Buffer(self.buffer, self.start(), self.streams)

    def negatives(self, sample: Callable[[Tensor, Streams], Tensor], count: int, step: int) -> Tensor:
        """x~ (B, C, H, W): chains drawn from the buffer, continued by `sample`, and put back."""
        x, places = self.replay.draw(step, count)
        x = sample(x, self.streams("negatives", step, count=count))
        self.replay.store(places, x)
        return x

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
