"""Robust JEM: JEM++ trained with adversarial examples (Korst and Asadulaev 2022)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from advebm.data.batches import Batch
from advebm.energy import marginal, negative, posterior
from advebm.methods.base import JointMethod, Loss
from advebm.networks import Network
from advebm.ranges import NonNegative
from advebm.samplers.pgd import Attack
from advebm.samplers.proximal import Proximal


@dataclass(kw_only=True)
class RobustJEM(JointMethod):
    """min CE(x_adv, y) + p_x (E(x+) - E(x~)), Section 3.

    x_adv = argmax CE(x + d, y) over ||d|| <= eps; x~ by JEM++'s sampler on E(x) from class Gaussians. What the paper
    leaves open is a parameter:
    - `positives`, whether x+ is x or x_adv: by default x, as E should be low on the data, which x_adv has left; `plain` is
      x without augmentation (Yang et al. 2023, SADA-JEM);
    - `attack.eps`, the range of its radius .1: we assume [-1, 1] as in JEM++'s code, so .05 here;
    - `attack.step_size`: by default 2.5 eps / steps (Madry et al. 2018), which reaches the whole ball.

    `align` adds align (E(x_adv) - E(x+))^2, which keeps the energies of clean and adversarial images together (after Jiang
    et al. 2025, methods/eb_jdat.py); the paper has none.
    """

    informed: ClassVar[bool] = True
    attack: Attack
    sampler: Proximal
    positives: Literal["clean", "adversarial", "plain"] = "clean"
    align: NonNegative = 0.0

    def __post_init__(self) -> None:
        if self.align and self.positives == "adversarial":
            raise ValueError("align: must be 0 with positives: adversarial, as x+ is x_adv")

    def loss(self, net: Network, batch: Batch, step: int) -> Loss:
        x, y = batch.x, batch.y
        with self.passes.sampling(net) as f:
            x_adv = self.attack(negative(posterior(f, y)), x, self.streams("attack", step, count=len(x)))
            x_neg, _ = self.negatives(f, len(x), step)
        data = [x_adv] if self.positives == "adversarial" else [x_adv, batch.x_plain if self.plain else x]
        f_neg, *f_data = self.passes(net, x_neg, *data)  # the data last, for batch norm's running statistics
        ce = posterior.of(f_data[0], y).mean()
        e_pos = marginal.of(f_data[-1])
        term, logs = self.contrast(e_pos, marginal.of(f_neg))
        if self.align:
            apart = (marginal.of(f_data[0]) - e_pos).square().mean()
            term, logs = term + self.align * apart, {**logs, "alignment": apart}
        return Loss(ce + term, {"ce": ce, **logs}, x_adv=x_adv, x_neg=x_neg)
