"""JEM: a classifier that is trained as an energy-based model too (Grathwohl et al. 2020)."""

from dataclasses import dataclass
from typing import Literal

from advebm.data.batches import Batch
from advebm.energy import marginal, posterior
from advebm.methods.base import JointMethod, Loss
from advebm.networks import Network
from advebm.samplers.buffer import Start, uniform_start
from advebm.samplers.sgld import Langevin


@dataclass(kw_only=True)
class JEM(JointMethod):
    """min CE(x, y) + p_x (E(x+) - E(x~)), x~ by SGLD on E(x) from U(0, 1) (Algorithm 1).

    x+ is x; with `positives: other` images drawn apart from those with classes, as released; with `plain` the images
    without augmentation (Yang et al. 2023, SADA-JEM).
    """

    sampler: Langevin
    positives: Literal["augmented", "plain", "other"] = "augmented"

    def start(self) -> Start:
        return uniform_start(self.context.shape, self.context.device)

    def loss(self, net: Network, batch: Batch, step: int) -> Loss:
        x, y, sampler = batch.x, batch.y, self.grown(step)
        with self.passes.sampling(net) as f:
            x_neg, _ = self.negatives(lambda v, k, s: sampler(self.descended(f, k), v, s), len(x), step)
        data = [*self.apart(batch), x]
        f_neg, *f_data = self.passes(net, x_neg, *data)  # the data last, for batch norm's running statistics
        ce = posterior.of(f_data[-1], y).mean()
        term, logs = self.contrast(marginal.of(f_data[0]), marginal.of(f_neg))
        return Loss(ce + term, {"ce": ce, **logs}, x_neg=x_neg)
