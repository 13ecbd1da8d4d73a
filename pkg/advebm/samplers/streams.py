"""Random numbers by a stream for each image, so that they do not depend on the batch that the image is in."""

import hashlib

import torch
from torch import Tensor

GAMMA = 0x9E3779B97F4A7C15 - 2**64  # 64-bit constants of SplitMix64, as signed integers
MIX = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)


def _shift(z: Tensor, bits: int) -> Tensor:
    return (z >> bits) & ((1 << (64 - bits)) - 1)  # a logical shift; torch's is arithmetic


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * MIX[0]
    z = (z ^ _shift(z, 27)) * MIX[1]
    return z ^ _shift(z, 31)


class Streams:
    """SplitMix64 (Steele, Lea and Flood 2014), counter-based, computed on the device of `ids`.

    Streams(0, "train", 17, ids=ids) are the streams of images `ids` (B,) for the key (0, "train", 17). Equal keys and ids
    give equal numbers on every device. Each draw advances all streams equally.
    """

    def __init__(self, *key: int | str, ids: Tensor):
        digest = hashlib.sha256(repr(key).encode()).digest()
        self.ids = ids.long()
        self.state = _mix(self.ids * GAMMA + int.from_bytes(digest[:8], "little", signed=True))
        self.position = 0

    def __getitem__(self, index: Tensor) -> "Streams":
        """The streams of some of the images, at the current position."""
        return self._of(self.ids[index], self.state[index])

    def to(self, device: torch.device | str) -> "Streams":
        """The streams on that device, at the current position."""
        return self._of(*(part.to(device, non_blocking=True) for part in (self.ids, self.state)))

    def _of(self, ids: Tensor, state: Tensor) -> "Streams":
        streams = object.__new__(Streams)
        streams.ids, streams.state, streams.position = ids, state, self.position
        return streams

    def _bits(self, shape: tuple[int, ...]) -> Tensor:
        count = torch.Size(shape).numel()
        counter = torch.arange(self.position + 1, self.position + count + 1, device=self.state.device)
        self.position += count
        return _mix(self.state[:, None] + GAMMA * counter).view(-1, *shape)

    def uniform(self, *shape: int) -> Tensor:
        """U[0, 1), (B, *shape) float32, from 24 random bits each."""
        return _shift(self._bits(shape), 40).float() * 2**-24

    def normal(self, *shape: int) -> Tensor:
        """N(0, 1), (B, *shape) float32, by Box and Muller (1958); |value| stays below 5.8."""
        bits = self._bits(shape)
        radius = (_shift(bits, 40) + 1).float() * 2**-24
        angle = (_shift(bits, 8) & 0xFFFFFF).float() * 2**-24
        return (-2 * radius.log()).sqrt() * (2 * torch.pi * angle).cos()

    def integers(self, high: int, *shape: int) -> Tensor:
        """Integers of [0, high), (B, *shape) int64; high at most 2**24."""
        return (_shift(self._bits(shape), 40) * high) >> 24
