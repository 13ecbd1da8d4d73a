"""Glow, trained by maximum likelihood (Kingma and Dhariwal 2018)."""

from dataclasses import dataclass
from typing import ClassVar

from advebm.data.batches import Batch
from advebm.energy import marginal
from advebm.methods.base import DensityMethod, Loss
from advebm.networks import Network


@dataclass(kw_only=True)
class Glow(DensityMethod):
    """min -log p(x), x dequantised (Eq. 1-2)."""

    networks: ClassVar = ("glow",)

    def loss(self, net: Network, batch: Batch, step: int) -> Loss:
        x = self.dequantised(batch.x, "dequantise", step)
        energy = marginal(net)(x).mean()
        return Loss(energy, {"bits_per_dim": self.bits_per_dim(energy)})
