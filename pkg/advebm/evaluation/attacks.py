"""Published attacks on a score, to stand beside the worst case of ood.py."""

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from advebm.energy import Energy
from advebm.ranges import Several
from advebm.runtime.parts import Part
from advebm.samplers.apgd import AutoPGD
from advebm.samplers.square import Square
from advebm.samplers.streams import Streams


@dataclass(kw_only=True)
class Attacks:
    """Auto-PGD with the steps and restarts of Yin, Li and Rohde (2022, Table 4), and the Square attack, which needs no
    gradient: on the score itself, within the largest radius of the first norm."""

    n: Several | None = None  # out-distribution images, the first of the worst case; null: all of them
    apgd: AutoPGD = field(default_factory=AutoPGD)
    square: Square = field(default_factory=Square)

    def names(self) -> dict[str, str]:
        """Each attack in words."""
        apgd = f"apgd, {self.apgd.steps} steps, {self.apgd.restarts} restarts"
        return {"apgd": apgd, "square": f"square, {self.square.queries} queries"}

    def moved(
        self, energy: Energy, x: Tensor, *, eps: float, norm: str, seed: int, batch: int, name: str, part: Part
    ) -> dict[str, Tensor]:
        """The images of lowest energy that each attack finds within eps of x (N, C, H, W) and [0, 1]; name: that of the
        parts that are saved."""
        attacks: dict[str, AutoPGD | Square] = {"apgd": self.apgd, "square": self.square}

        def made(key: str) -> Tensor:
            ids = torch.arange(len(x), device=x.device)
            parts = [
                attacks[key](energy, own, Streams(seed, "ood", key, norm, ids=of), eps=eps, norm=norm)
                for own, of in zip(x.split(batch), ids.split(batch), strict=True)
            ]
            return torch.cat(parts)

        return {key: part(f"{name}, {key}", partial(made, key)).to(x.device) for key in attacks}
