"""PreJEAT: adversarial training by the energy attack alone (Zhu et al. 2021, Section 3.3)."""

from dataclasses import dataclass

from advebm.data.batches import Batch
from advebm.energy import conditional, negative, posterior
from advebm.methods.base import Loss, Method
from advebm.networks import Network
from advebm.samplers.pgd import Attack


@dataclass(kw_only=True)
class PreJEAT(Method):
    """min CE(x_adv, y), x_adv = x + eps sign(dE(x, y)/dx) (Zhu et al. 2021, Eq. 18).

    This is one step without a random start; more steps are projected ascent of E(x, y).
    """

    attack: Attack

    def loss(self, net: Network, batch: Batch, step: int) -> Loss:
        x, y = batch.x, batch.y
        with self.passes.sampling(net) as f:
            x_adv = self.attack(negative(conditional(f, y)), x, self.streams("attack", step, count=len(x)))
        ce = posterior(net, y)(x_adv).mean()
        return Loss(ce, {"ce": ce}, x_adv=x_adv)
