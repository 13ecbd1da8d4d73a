"""JEM++: JEM with the m x n sampler started from class Gaussians (Yang and Ji 2021)."""

from dataclasses import dataclass

from torch import nn

from advebm.data.batches import Batch
from advebm.energy import given, marginal, posterior
from advebm.methods.base import Loss, ReplayMethod
from advebm.networks import sampling
from advebm.samplers.proximal import Proximal


@dataclass(kw_only=True)
class JEMPP(ReplayMethod):
    """min CE(x, y) + p_x (E(x) - E(x~)), x~ by the m x n sampler on E(x) from class Gaussians (Algorithm 1).

    Chains run in evaluation mode, so that an image's gradient does not depend on the others of its batch; the released
    code runs them in training mode.
    """

    sampler: Proximal

    def loss(self, net: nn.Module, batch: Batch, step: int) -> Loss:
        x, y, _ = batch
        with sampling(net):
            x_neg = self.negatives(lambda v, _: self.sampler(net.stem, marginal(net.body), v), len(x), step)
        e_neg = marginal(net)(x_neg)  # before the data, so that batch norm's statistics end on the data
        f = given(net(x))
        ce = posterior(f, y)(x).mean()
        term, logs = self.contrast(marginal(f)(x), e_neg)
        return Loss(ce + term, {"ce": ce, **logs}, x_neg=x_neg)
