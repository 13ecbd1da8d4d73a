"""The Square attack on an energy, by queries alone: for energies without a useful gradient."""

import torch
from torch import Tensor

from advebm.energy import Energy
from advebm.runtime.parts import BATCH

NAMES = {"linf": "Linf", "l2": "L2"}


def padded(x: Tensor) -> Tensor:
    """The images with black rows and columns up to a square of a side that the released attack can start on within L2: its
    first squares, a fifth of the side, must not end at the edge in part."""
    height, width = x.shape[2:]
    side = max(height, width)
    while (s := side // 5) > 1 and (side - 5 * s) // 2 + side // s * s > side:
        side += 1
    return torch.nn.functional.pad(x, (0, side - width, 0, side - height))


@torch.no_grad()
def square(
    energy: Energy, x: Tensor, *, eps: float, norm: str, queries: int, floor: float, seed: int, batch: int = BATCH
) -> Tensor:
    """Images of low energy within eps of x (B, C, H, W) in [0, 1], by random squares (Andriushchenko et al. 2020).

    This runs the released attack on a classifier with two logits, the energy and `floor`: it lowers the energy of an image
    until that is below the floor. All images of x share its random numbers. What it changes in padding has no effect.
    """
    from pyautoattack.square import SquareAttack

    height, width = x.shape[2:]

    def logits(z: Tensor) -> Tensor:
        z = z[..., :height, :width]
        e = torch.cat([energy(part).detach() for part in z.split(batch)])
        return torch.stack([e, torch.full_like(e, floor)], 1)

    attack = SquareAttack(
        logits, norm=NAMES[norm], n_queries=queries, eps=eps, seed=seed, resc_schedule=True, device=x.device
    )
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        torch.manual_seed(seed)
        attack.init_hyperparam(padded(x))
        found = attack.attack_single_run(padded(x), torch.zeros(len(x), dtype=torch.long, device=x.device))[1]
        return found[..., :height, :width]
