"""JEM: a classifier trained as an energy-based model too (Grathwohl et al. 2020)."""

from dataclasses import dataclass

from torch import nn

from advebm.data.batches import Batch
from advebm.energy import given, marginal, posterior
from advebm.methods.base import Loss, ReplayMethod
from advebm.networks import passes, sampling
from advebm.samplers.buffer import Start, uniform_start
from advebm.samplers.sgld import Langevin


@dataclass(kw_only=True)
class JEM(ReplayMethod):
    """min CE(x, y) + p_x (E(x) - E(x~)), x~ by SGLD on E(x) from U(0, 1) (Algorithm 1)."""

    sampler: Langevin

    def start(self) -> Start:
        return uniform_start(self.context.shape, self.context.device)

    def loss(self, net: nn.Module, batch: Batch, step: int) -> Loss:
        x, y, _ = batch
        with sampling(net):
            x_neg = self.negatives(lambda v, streams: self.sampler(marginal(net), v, streams), len(x), step)
        f_neg, f = map(given, passes(net, x_neg, x))  # the data last: batch norm's statistics end on them
        ce = posterior(f, y)(x).mean()
        term, logs = self.contrast(marginal(f)(x), marginal(f_neg)(x_neg))
        return Loss(ce + term, {"ce": ce, **logs}, x_neg=x_neg)
