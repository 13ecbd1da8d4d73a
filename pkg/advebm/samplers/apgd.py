"""Auto-PGD: projected gradient descent with adaptive step sizes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from advebm.energy import Energy, evaluated
from advebm.ranges import Count
from advebm.samplers.norms import NORMS
from advebm.samplers.streams import Streams

MOMENTUM = 0.75  # alpha
RHO = 0.75  # a step is too long if at most this fraction of the steps since the last checkpoint lowered the energy


def apgd(energy: Energy, x: Tensor, start: Tensor, *, steps: int, eps: float, norm: str) -> Tensor:
    """Descend `energy` from `start` within the ball of radius eps around x and [0, 1]; the best iterate of each image.

    Croce and Hein 2020, Algorithm 1, with the checkpoints of their code: windows of .22, .19, ..., .06 of the steps. After
    a window, images whose energy fell too seldom, or whose best iterate did not improve, halve their step and continue from
    their best iterate. x, start (B, C, H, W) in [0, 1]; eps in that unit.
    """
    ball, origin = NORMS[norm], x

    def project(z: Tensor) -> Tensor:
        return (origin + ball.project(z - origin, eps)).clamp(0, 1)

    def wide(flags: Tensor) -> Tensor:
        return flags.view(-1, 1, 1, 1)

    x = previous = project(start)
    e, g = evaluated(energy, x)
    x_best, e_best, g_best = x, e, g
    step = x.new_full((len(x), 1, 1, 1), 2 * eps)
    window, least, shorter = (max(int(part * steps), 1) for part in (0.22, 0.06, 0.03))
    fell, since = torch.zeros_like(e), 0  # steps that lowered the energy, and steps, since the last checkpoint
    e_checkpoint, halved = e_best, torch.ones_like(e, dtype=torch.bool)
    for k in range(steps):
        z = project(x - step * ball.direction(g))
        if k:
            z = project(x + MOMENTUM * (z - x) + (1 - MOMENTUM) * (x - previous))
        previous, e_previous = x, e
        x = z
        e, g = evaluated(energy, x)
        better = e < e_best
        x_best, g_best = torch.where(wide(better), x, x_best), torch.where(wide(better), g, g_best)
        e_best = torch.where(better, e, e_best)
        fell, since = fell + (e < e_previous), since + 1
        if since == window:
            halved = (fell <= RHO * window) | (~halved & (e_best >= e_checkpoint))
            step = torch.where(wide(halved), step / 2, step)
            x, g = torch.where(wide(halved), x_best, x), torch.where(wide(halved), g_best, g)
            e_checkpoint, fell, since = e_best, torch.zeros_like(e), 0
            window = max(window - shorter, least)
    return x_best


@dataclass(kw_only=True)
class AutoPGD:
    """Auto-PGD with restarts: the first from a given start, the others from random points of the ball."""

    steps: Count = 100
    restarts: Count = 5

    def __call__(
        self, energy: Energy, x: Tensor, streams: Streams, *, eps: float, norm: str, start: Tensor | None = None
    ) -> Tensor:
        """The images of lowest energy of all restarts within eps of x, including `start` (by default x)."""
        best = x if start is None else start
        for restart in range(self.restarts):
            begin = x + NORMS[norm].random_start(x.shape, eps, streams) if restart else best
            moved = apgd(energy, x, begin, steps=self.steps, eps=eps, norm=norm)
            with torch.no_grad():
                best = torch.where((energy(moved) < energy(best)).view(-1, 1, 1, 1), moved, best)
        return best
