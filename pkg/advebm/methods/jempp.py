"""JEM++: JEM with the m x n sampler started from class Gaussians (Yang and Ji 2021)."""

from dataclasses import dataclass

from torch import nn

from advebm.data.batches import Batch
from advebm.energy import given, marginal, posterior
from advebm.methods.base import Loss, ReplayMethod
from advebm.networks import passes, sampling
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
        f_neg, f = map(given, passes(net, x_neg, x))  # the data last: batch norm's statistics end on them
        ce = posterior(f, y)(x).mean()
        term, logs = self.contrast(marginal(f)(x), marginal(f_neg)(x_neg))
        return Loss(ce + term, {"ce": ce, **logs}, x_neg=x_neg)
