"""The replay buffer of persistent chains (Tieleman 2008; Du and Mordatch 2019)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from advebm.ranges import Count, Fraction
from advebm.runtime import ranks
from advebm.samplers.streams import Streams

# fresh images (B, C, H, W) by streams, which may be on the CPU, and places (B,), on the buffer's device
Start = Callable[[Streams, Tensor], Tensor]


@dataclass(kw_only=True)
class Replay:
    """The parameters of a replay buffer."""

    size: Count = 10_000
    reinit: Fraction = 0.05  # probability that a chain is restarted
    flip: bool = False  # mirror drawn images with probability 1/2


class Buffer:
    """`size` images on the device, initially from `start`. Batches are drawn without replacement, so that storing them is
    well defined. Of R processes rank r keeps the places r, r + R, r + 2 R, ..."""

    def __init__(self, replay: Replay, start: Start, seed: int, device: torch.device | str):
        if replay.size % ranks.size():
            raise ValueError(
                f"{ranks.size()} processes cannot share a replay buffer of {replay.size} evenly; take a multiple"
            )
        self.size, self.reinit, self.flip = replay.size, replay.reinit, replay.flip
        self.start, self.seed, self.device = start, seed, device
        places = torch.arange(ranks.rank(), replay.size, ranks.size(), device=device)
        self.kept = start(Streams(seed, "buffer", ids=places), places)  # this process's images

    def draw(self, step: int, count: int) -> tuple[Tensor, Tensor]:
        """Images (count, C, H, W) from which this process's chains continue in this step, and the places of all processes'
        chains, to which `store` returns them. Raises ValueError if the buffer is smaller than the batch."""
        chains = count * ranks.size()
        if chains > self.size:
            raise ValueError(f"the replay buffer holds {self.size} images, too few for a batch of {chains}")
        streams = Streams(self.seed, "places", step, ids=torch.zeros(1, device=self.device))
        places = streams.uniform(self.size).squeeze(0).topk(chains).indices
        x = self.kept[places // ranks.size()]
        if ranks.size() > 1:
            mine = places % ranks.size() == ranks.rank()
            x = ranks.share(ranks.total(torch.where(mine.view(-1, 1, 1, 1), x, 0)))
        if self.flip:
            mirrored = Streams(self.seed, "flip", step, ids=ranks.ids(count, self.device)).uniform(1, 1, 1) < 0.5
            x = torch.where(mirrored, x.flip(3), x)
        streams = Streams(self.seed, "fresh", step, ids=ranks.ids(count, "cpu"))  # there len(fresh) needs no waiting
        fresh = (streams.uniform() < self.reinit).nonzero().squeeze(1)
        if len(fresh):
            here = fresh.to(x.device, non_blocking=True)
            x[here] = self.start(streams[fresh], ranks.share(places)[here]).to(x.dtype)
        return x, places

    def store(self, places: Tensor, x: Tensor) -> None:
        """Put this process's chains x (B, C, H, W) back; places: those of all processes' chains."""
        x = ranks.gather(x.detach())
        if ranks.size() > 1:
            mine = places % ranks.size() == ranks.rank()
            places, x = places[mine] // ranks.size(), x[mine]
        self.kept[places] = x

    @property
    def images(self) -> Tensor:
        """The images of all processes in the order of their places, (size, C, H, W)."""
        return ranks.gather(self.kept).unflatten(0, (ranks.size(), -1)).transpose(0, 1).flatten(0, 1)

    def state_dict(self) -> dict[str, Tensor]:
        return {"images": self.images}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.kept = state["images"][ranks.rank() :: ranks.size()].to(self.kept.device)


def uniform_start(shape: tuple[int, ...], device: torch.device | str) -> Start:
    """A start from U(0, 1) noise of shape (C, H, W)."""
    return lambda streams, places: streams.to(device).uniform(*shape)
