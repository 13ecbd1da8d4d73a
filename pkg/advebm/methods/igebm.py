"""IGEBM: implicit generation with energy-based models, class-conditional (Du and Mordatch 2019)."""

from dataclasses import dataclass

from torch import Tensor

from advebm.data.batches import Batch
from advebm.energy import Energy, Logits, conditional
from advebm.methods.base import Loss, ReplayMethod
from advebm.networks import Network
from advebm.samplers.sgld import Langevin


@dataclass(kw_only=True)
class IGEBM(ReplayMethod):
    """min E(x, y) - E(x~, y~) + energy_l2 (E(x, y)^2 + E(x~, y~)^2), x~ by SGLD on E(x, y~) (Algorithm 1).

    y~ is the class of the chain. The paper's networks have spectral normalisation: `network.spectral`.
    """

    sampler: Langevin

    def descended(self, f: Logits, y: Tensor) -> Energy:
        return conditional(f, y)

    def loss(self, net: Network, batch: Batch, step: int) -> Loss:
        x, y = batch.x, batch.y
        with self.passes.sampling(net) as f:
            x_neg, y_neg = self.negatives(f, len(x), step)
        f_neg, f_data = self.passes(net, x_neg, x)  # the data last, for batch norm's running statistics
        term, logs = self.contrast(conditional.of(f_data, y), conditional.of(f_neg, y_neg))
        return Loss(term, logs, x_neg=x_neg)
