"""Robust JEM: JEM++ trained with adversarial examples (Korst and Asadulaev 2022)."""

from dataclasses import dataclass
from typing import Literal

from advebm.data.batches import Batch
from advebm.energy import marginal, negative, posterior
from advebm.methods.base import JointMethod, Loss
from advebm.networks import Network
from advebm.samplers.pgd import Attack
from advebm.samplers.proximal import Proximal


@dataclass(kw_only=True)
class RobustJEM(JointMethod):
    """min CE(x_adv, y) + p_x (E(x+) - E(x~)), Section 3.

    x_adv = argmax CE(x + d, y) over ||d|| <= eps; x~ by JEM++'s sampler on E(x) from class Gaussians. What the paper does
    not say is a parameter, read as follows:
    - whether x+ is x or x_adv, `positives`: x, as E is to be low on the data, and x_adv was moved off it on purpose;
      `plain` is x without augmentation (Yang et al. 2023, SADA-JEM);
    - the range that its radius .1 is in, `attack.eps`: [-1, 1], the range of JEM++'s code, so .05 here;
    - the attack's step, `attack.step_size`: 2.5 eps / steps, the rule of Madry et al., which reaches the whole ball.
    """

    attack: Attack
    sampler: Proximal
    positives: Literal["clean", "adversarial", "plain"] = "clean"

    def loss(self, net: Network, batch: Batch, step: int) -> Loss:
        x, y, sampler = batch.x, batch.y, self.grown(step)
        with self.passes.sampling(net) as f:
            x_adv = self.attack(negative(posterior(f, y)), x, self.streams("attack", step, count=len(x)))
            x_neg, _ = self.negatives(lambda v, k, _: sampler(f.stem, self.descended(f.body, k), v), len(x), step)
        data = [x_adv] if self.positives == "adversarial" else [x_adv, batch.x_plain if self.plain else x]
        f_neg, *f_data = self.passes(net, x_neg, *data)  # the data last: batch norm's statistics end on them
        ce = posterior.of(f_data[0], y).mean()
        term, logs = self.contrast(marginal.of(f_data[-1]), marginal.of(f_neg))
        return Loss(ce + term, {"ce": ce, **logs}, x_adv=x_adv, x_neg=x_neg)
