"""The Square attack on an energy, by queries alone: for energies without a useful gradient."""

import torch
from torch import Tensor

from advebm.energy import Energy
from advebm.runtime.parts import BATCH

NAMES = {"linf": "Linf", "l2": "L2"}


@torch.no_grad()
def square(
    energy: Energy, x: Tensor, *, eps: float, norm: str, queries: int, floor: float, seed: int, batch: int = BATCH
) -> Tensor:
    """Images of low energy within eps of x (B, C, H, W) in [0, 1], by random squares (Andriushchenko et al. 2020).

    This runs the released attack on a classifier with two logits, the energy and `floor`: it lowers the energy of an image
    until that is below the floor. All images of x share its random numbers.
    """
    from pyautoattack.square import SquareAttack

    def logits(z: Tensor) -> Tensor:
        e = torch.cat([energy(part).detach() for part in z.split(batch)])
        return torch.stack([e, torch.full_like(e, floor)], 1)

    attack = SquareAttack(
        logits, norm=NAMES[norm], n_queries=queries, eps=eps, seed=seed, resc_schedule=True, device=x.device
    )
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        torch.manual_seed(seed)
        attack.init_hyperparam(x)
        return attack.attack_single_run(x, torch.zeros(len(x), dtype=torch.long, device=x.device))[1]
