"""EB-JDAT: adversarial training of the joint distribution of clean and adversarial images (Jiang et al. 2025)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from advebm.data.batches import Batch
from advebm.energy import conditional, marginal, negative, posterior
from advebm.methods.base import JointMethod, Loss
from advebm.networks import Network
from advebm.ranges import NonNegative
from advebm.samplers.pgd import Attack
from advebm.samplers.proximal import Proximal


@dataclass(kw_only=True)
class EBJDAT(JointMethod):
    """min clean CE(x, y) + CE(x_adv, y) + p_x (E(x+) - E(x~)) + align (E(x_adv) - E(x)), which models p(x, x_adv, y) as
    p(x) p(x_adv | x) p(y | x, x_adv).

    x_adv = argmax E(x + d, y) over ||d|| <= eps: the min-max of the energies of clean and adversarial images. x~ by JEM++'s
    sampler on E(x) from class Gaussians, one of the samplers that the paper takes. With `ascends: ce`, x_adv is that of
    Robust JEM, which this is with `clean` and `align` 0.

    We had summaries of the paper and its released code, not all its equations. The code differs from the min-max: its
    attack ascends f(x)[y] and the distance of the normalised logits, so it lowers E(x, y), and is not projected; E(x_adv)
    is raised, not lowered, against the energy of other images. What only the code says is taken from it: that the attack is
    on E(x, y) and the alignment on E(x), the cross-entropy of clean images, and the weights.
    """

    informed: ClassVar[bool] = True
    attack: Attack
    sampler: Proximal
    positives: Literal["clean", "plain"] = "clean"
    clean: NonNegative = 1.0
    align: NonNegative = 0.1
    ascends: Literal["energy", "ce"] = "energy"

    def loss(self, net: Network, batch: Batch, step: int) -> Loss:
        x, y = batch.x, batch.y
        with self.passes.sampling(net) as f:
            raised = conditional(f, y) if self.ascends == "energy" else posterior(f, y)
            x_adv = self.attack(negative(raised), x, self.streams("attack", step, count=len(x)))
            x_neg, _ = self.negatives(f, len(x), step)
        data = [x_adv, batch.x_plain, x] if self.plain else [x_adv, x]
        f_neg, f_adv, *f_data = self.passes(net, x_neg, *data)  # the data last, for batch norm's running statistics
        f_x = f_data[-1]
        ce, ce_clean = posterior.of(f_adv, y).mean(), posterior.of(f_x, y).mean()
        term, logs = self.contrast(marginal.of(f_data[0]), marginal.of(f_neg))
        gap = marginal.of(f_adv).mean() - marginal.of(f_x).mean()
        value = ce + term + self.clean * ce_clean + self.align * gap
        return Loss(value, {"ce": ce, "ce_clean": ce_clean, "adversarial_gap": gap, **logs}, x_adv=x_adv, x_neg=x_neg)
