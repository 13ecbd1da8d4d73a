"""The replay buffer of persistent chains (Tieleman 2008; Du and Mordatch 2019)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from advebm.ranges import Count, Fraction
from advebm.samplers.streams import Streams

Start = Callable[[Streams], Tensor]  # fresh images (B, C, H, W), one for each stream


@dataclass(kw_only=True)
class Replay:
    """The numbers of a replay buffer."""

    size: Count = 10_000
    reinit: Fraction = 0.05  # chance that a chain starts afresh


class Buffer:
    """`size` images, all drawn from `start` at first and kept on its device; drawn without repeats, so that writing
    back is well defined."""

    def __init__(self, replay: Replay, start: Start, streams: Callable[..., Streams]):
        self.reinit, self.start, self.streams = replay.reinit, start, streams
        self.images = start(streams("buffer", count=replay.size))

    def draw(self, step: int, count: int) -> tuple[Tensor, Tensor]:
        """Where `count` chains start in this step, (count, C, H, W), and the places (count,) that `store` is to put them
        back to."""
        size = len(self.images)
        if count > size:
            raise ValueError(f"the replay buffer holds {size} images: too few for a batch of {count}")
        places = self.streams("places", step, count=1).uniform(size).squeeze(0).topk(count).indices
        x = self.images[places]
        streams = self.streams("fresh", step, count=count)
        fresh = (streams.uniform() < self.reinit).nonzero().squeeze(1)
        if len(fresh):
            x[fresh] = self.start(streams[fresh]).to(x.dtype)
        return x, places

    def store(self, places: Tensor, x: Tensor) -> None:
        self.images[places] = x.detach()

    def state_dict(self) -> dict[str, Tensor]:
        return {"images": self.images}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.images = state["images"].to(self.images.device)


def uniform_start(shape: torch.Size) -> Start:
    """Images of U(0, 1) noise, shape (C, H, W)."""
    return lambda streams: streams.uniform(*shape)
