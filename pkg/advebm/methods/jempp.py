"""JEM++: JEM with the m x n sampler and chains from class Gaussians (Yang and Ji 2021)."""

from dataclasses import dataclass
from typing import Literal

from advebm.data.batches import Batch
from advebm.energy import marginal, posterior
from advebm.methods.base import JointMethod, Loss
from advebm.networks import Network
from advebm.samplers.proximal import Proximal


@dataclass(kw_only=True)
class JEMPP(JointMethod):
    """min CE(x, y) + p_x (E(x+) - E(x~)), x~ by the m x n sampler on E(x) from class Gaussians (Algorithm 1).

    x+ is x; with `positives: other` images drawn apart from those with classes, as released; with `plain` the images
    without augmentation (Yang et al. 2023, SADA-JEM). With norm `batch`, chains use the statistics of their batch, as
    released (networks/norms.py).
    """

    sampler: Proximal
    positives: Literal["augmented", "plain", "other"] = "augmented"

    def loss(self, net: Network, batch: Batch, step: int) -> Loss:
        x, y, sampler = batch.x, batch.y, self.grown(step)
        with self.passes.sampling(net) as f:
            x_neg, _ = self.negatives(lambda v, k, _: sampler(f.stem, self.descended(f.body, k), v), len(x), step)
        data = [*self.apart(batch), x]
        f_neg, *f_data = self.passes(net, x_neg, *data)  # the data last, for batch norm's running statistics
        ce = posterior.of(f_data[-1], y).mean()
        term, logs = self.contrast(marginal.of(f_data[0]), marginal.of(f_neg))
        return Loss(ce + term, {"ce": ce, **logs}, x_neg=x_neg)
