"""Adversarial training (Madry et al. 2018); Robust JEM's "single robust classifier"."""

from dataclasses import dataclass

from advebm.data.batches import Batch
from advebm.energy import negative, posterior
from advebm.methods.base import Loss, Method
from advebm.networks import Network
from advebm.samplers.pgd import Attack


@dataclass(kw_only=True)
class AT(Method):
    """min CE(x_adv, y), x_adv = argmax CE(x + d, y) over ||d|| <= eps, by projected gradient steps (Eq. 2.1)."""

    attack: Attack

    def loss(self, net: Network, batch: Batch, step: int) -> Loss:
        x, y = batch.x, batch.y
        with self.passes.sampling(net) as f:
            x_adv = self.attack(negative(posterior(f, y)), x, self.streams("attack", step, count=len(x)))
        ce = posterior(net, y)(x_adv).mean()
        return Loss(ce, {"ce": ce}, x_adv=x_adv)
