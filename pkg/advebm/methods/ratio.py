"""RATIO: robustness via adversarial training on in- and out-distribution (Augustin et al. 2020)."""

from dataclasses import dataclass
from math import log
from typing import ClassVar

from advebm.data.batches import Batch
from advebm.energy import negative, posterior, undecided
from advebm.methods.base import Loss, Method
from advebm.networks import Network
from advebm.ranges import Fraction
from advebm.samplers.pgd import Attack


@dataclass(kw_only=True)
class Ratio(Method):
    """min (1 - w) CE(x_adv, y) + w KL(uniform, p(. | x_out_adv)) (Eq. 6); the detector is the maximal softmax probability.

    Each attack maximises its term within an L2 ball.
    """

    outliers: ClassVar[bool] = True
    detector: ClassVar[str] = "max_softmax"
    attack: Attack
    attack_out: Attack
    weight: Fraction = 0.5  # w

    def loss(self, net: Network, batch: Batch, step: int) -> Loss:
        x, y, x_out = batch.x, batch.y, batch.x_out
        assert x_out is not None
        with self.passes.sampling(net) as f:
            x_adv = self.attack(negative(posterior(f, y)), x, self.streams("attack", step, count=len(x)))
            streams = self.streams("attack_out", step, count=len(x))
            x_out_adv = self.attack_out(negative(undecided(f)), x_out, streams)
        f_out, f_data = self.passes(net, x_out_adv, x_adv)  # a pass for each term, see methods/oe.py
        ce = posterior.of(f_data, y).mean()
        kl = undecided.of(f_out).mean() - log(self.context.classes)
        return Loss((1 - self.weight) * ce + self.weight * kl, {"ce": ce, "kl_out": kl}, x_adv=x_adv, x_neg=x_out_adv)
