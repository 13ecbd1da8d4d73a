"""The Square attack: random search by values of the energy alone, without its gradient."""

from dataclasses import dataclass

import torch
from torch import Tensor

from advebm.energy import Energy
from advebm.ranges import Count
from advebm.samplers.norms import NORMS
from advebm.samplers.pgd import lower
from advebm.samplers.streams import Streams

P = 0.8  # the share of the pixels that the first squares cover
HALVED = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries: the last ones before p is halved
TILES = 5  # along the shorter side of the first perturbation within L2


@torch.no_grad()
def square(energy: Energy, x: Tensor, streams: Streams, *, queries: int, eps: float, norm: str) -> Tensor:
    """Images of low energy within eps of x (B, C, H, W) and [0, 1], and no higher than that of x.

    Andriushchenko et al. 2020, Algorithm 1: a query changes the perturbation in a square at a random place of each image,
    and the change is kept where it lowers the energy; squares become smaller. The changes are those of Algorithm 2 (linf)
    and 3 (l2), with the authors' sizes scaled to the number of queries.
    """
    first, changed = {"linf": (stripes, filled), "l2": (tiles, bumped)}[norm]
    best = (x + first(x.shape, eps, streams)).clamp(0, 1)
    best, e_best = lower(best, energy(best), x, energy(x))
    for k in range(queries):
        pixels = P / 2 ** sum(10_000 * k > edge * queries for edge in HALVED) * x[0, 0].numel()
        z = (x + changed(best - x, pixels, eps, streams)).clamp(0, 1)
        best, e_best = lower(z, energy(z), best, e_best)
    return best


def stripes(shape: torch.Size, eps: float, streams: Streams) -> Tensor:
    """Columns of -eps or eps in each channel."""
    return eps * signs(streams, shape[1], 1, shape[3]).expand(shape)


def filled(d: Tensor, pixels: float, eps: float, streams: Streams) -> Tensor:
    """d with -eps or eps in a square of about so many pixels of each channel."""
    inside, _ = placed(d, min(max(round(pixels**0.5), 1), *d.shape[2:]), streams)
    return torch.where(inside, eps * signs(streams, d.shape[1], 1, 1), d)


def tiles(shape: torch.Size, eps: float, streams: Streams) -> Tensor:
    """The bump of `bump` in tiles, of random signs and directions, of length eps."""
    side = max(min(shape[2:]) // TILES, 1)
    down, across = (extent // side for extent in shape[2:])
    one, sign = bump(side).to(streams.ids.device), signs(streams, shape[1], down, across)[..., None, None]
    turned = streams.integers(2, 1, down, across)[..., None, None] == 1
    d = (sign * torch.where(turned, one.mT, one)).transpose(3, 4).reshape(*shape[:2], down * side, across * side)
    left, top = (shape[3] - across * side) // 2, (shape[2] - down * side) // 2
    d = torch.nn.functional.pad(d, (left, shape[3] - d.shape[3] - left, top, shape[2] - d.shape[2] - top))
    return eps * NORMS["l2"].direction(d)


def bumped(d: Tensor, pixels: float, eps: float, streams: Streams) -> Tensor:
    """d with a bump in one square, to which the length that d has in another square, and what it lacks of eps, is moved."""
    side = min(max(round(pixels**0.5), 3) | 1, *d.shape[2:])  # odd
    (into, new), (out, _) = placed(d, side, streams), placed(d, side, streams)
    lacking = (eps**2 - length(d, (1, 2, 3)) ** 2).clamp_min(0) / d.shape[1]
    moved = (lacking + length(d * (into | out)) ** 2).sqrt()
    new = new * signs(streams, d.shape[1], 1, 1) + d * into / length(d * into)
    d = d * ~(into | out) + moved * new / length(new)
    return eps * NORMS["l2"].direction(d)


def bump(side: int) -> Tensor:
    """Two pyramids side by side, one of them negative; (side, side), of length 1 (Eq. 2)."""
    eta = torch.cat([pyramid(side // 2, side), -pyramid(side - side // 2, side)])
    return eta / eta.norm()


def pyramid(height: int, width: int) -> Tensor:
    """Of length 1; r pixels from its centre it has the height sum_{k >= r} 1 / (k + 1)^2 (Eq. 3)."""
    down, across = ((torch.arange(extent) - extent // 2).abs() for extent in (height, width))
    tail = (1 / torch.arange(1.0, max(height, width) // 2 + 2) ** 2).flip(0).cumsum(0).flip(0)
    rising = tail[torch.maximum(down[:, None], across)]
    return rising / rising.norm()


def placed(d: Tensor, side: int, streams: Streams) -> tuple[Tensor, Tensor]:
    """A square at a random place of each image, as bool (B, 1, H, W), and a bump in it, in one of two directions."""
    down, across = (
        torch.arange(extent, device=d.device) - streams.integers(extent - side + 1, 1) for extent in d.shape[2:]
    )
    inside = ((down >= 0) & (down < side))[:, :, None] & ((across >= 0) & (across < side))[:, None]
    at = down.clamp(0, side - 1)[:, :, None], across.clamp(0, side - 1)[:, None]
    eta, turned = bump(side).to(d.device), streams.integers(2, 1, 1) == 1
    return inside[:, None], (torch.where(turned, eta.mT[at], eta[at]) * inside)[:, None]


def signs(streams: Streams, *shape: int) -> Tensor:
    """-1 or 1, (B, *shape)."""
    return 2.0 * streams.integers(2, *shape) - 1


def length(d: Tensor, over: tuple[int, ...] = (2, 3)) -> Tensor:
    """The L2 length over these dimensions, which stay; at least 1e-12."""
    return d.square().sum(over, keepdim=True).sqrt().clamp_min(1e-12)


@dataclass(kw_only=True)
class Square:
    """The Square attack with its number of queries."""

    queries: Count = 5000

    def __call__(self, energy: Energy, x: Tensor, streams: Streams, *, eps: float, norm: str) -> Tensor:
        return square(energy, x, streams, queries=self.queries, eps=eps, norm=norm)
