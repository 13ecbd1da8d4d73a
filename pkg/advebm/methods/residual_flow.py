"""Residual flow, trained by maximum likelihood (Chen et al. 2019)."""

from dataclasses import dataclass
from typing import ClassVar

from advebm.data.batches import Batch
from advebm.methods.base import DensityMethod, Loss
from advebm.networks import Network
from advebm.networks.flow import estimates_from


@dataclass(kw_only=True)
class ResidualFlow(DensityMethod):
    """min -log p(x), x dequantised, log |det| by the Russian roulette estimate of its power series (Eq. 6)."""

    networks: ClassVar = ("residual_flow",)

    def loss(self, net: Network, batch: Batch, step: int) -> Loss:
        with estimates_from(self.context.seed, step):
            return super().loss(net, batch, step)
