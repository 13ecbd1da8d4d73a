"""DAT: a robust classifier and an energy-based model by dual adversarial training (Yin et al. 2025)."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from advebm.data.batches import Batch
from advebm.energy import binary, conditional, marginal, negative, posterior
from advebm.methods.ascent import AscentMethod
from advebm.methods.base import Loss
from advebm.networks import Network
from advebm.ranges import NonNegative
from advebm.samplers.pgd import Attack


@dataclass(kw_only=True)
class DAT(AscentMethod):
    """min CE(x_adv, y) + w (-log D(x) - log(1 - D(x*))), D = sigmoid(-E(x)).

    x_adv = argmax CE(x + d, y) over ||d|| <= eps. x* is x_out after K steps of `ascent` of f(x)[y], where y is the class of
    the data beside it; K grows by the AUC of f(x)[y]. D is of E(x), as released for CIFAR, or of E(x, y). Instead
    of R1 there is the adversarial training of the classifier.
    """

    attack: Attack
    weight: NonNegative = 0.5  # w; as released, where the mean is over x and x* together
    discriminates: Literal["marginal", "conditional"] = "marginal"  # the energy in D

    def loss(self, net: Network, batch: Batch, step: int) -> Loss:
        x, y = batch.x, batch.y
        with self.passes.sampling(net) as f:
            x_adv = self.attack(negative(posterior(f, y)), x, self.streams("attack", step, count=len(x)))
            x_star = self.negatives(conditional(f, y), batch, step, y)
        f_star, f_data, f_adv = self.passes(net, x_star, x, x_adv)
        ce = posterior.of(f_adv, y).mean()
        seen = [self.seen(logits, y) for logits in (f_data, f_star)]
        bce = (binary.of(seen[0], real=True) + binary.of(seen[1], real=False)).mean()
        e, e_star = marginal.of(f_data), marginal.of(f_star)
        logs = {"ce": ce, "bce": bce, "energy": e.mean(), "energy_gap": e.mean() - e_star.mean()}
        logs |= self.judged(conditional.of(f_data, y), conditional.of(f_star, y), step)
        return Loss(ce + self.weight * bce, logs, x_adv=x_adv, x_neg=x_star)

    def seen(self, logits: Tensor, y: Tensor) -> Tensor:
        """The logits whose energy is in D: all (B, K), or those of the classes y (B, 1)."""
        return logits if self.discriminates == "marginal" else logits.gather(1, y[:, None])
