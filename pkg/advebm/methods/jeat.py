"""JEAT: adversarial training of the joint energy (Zhu et al. 2021)."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from advebm.data.batches import Batch
from advebm.energy import Logits, conditional, grad, marginal, posterior
from advebm.methods.base import JointMethod, Loss
from advebm.networks import Network
from advebm.ranges import Count, NonNegative, Positive
from advebm.samplers.norms import Linf
from advebm.samplers.sgld import Langevin
from advebm.samplers.streams import Streams


@dataclass(kw_only=True)
class JEAT(JointMethod):
    """min CE(x_adv, y) + p_x (E(x_adv) - E(x~)), x~ by SGLD on E(x) from U(0, 1) or the buffer (Algorithm 1).

    x_adv = x + d: d ~ U(-eps, eps), then d <- clip(d + eps sign(dE(x, y)/dx)). As printed, the gradient is taken at x
    (`gradient_at: clean`), not at x + d (`start`). The paper has one step; further ones of `step_size` take the gradient at
    x + d. `positives: plain` replaces E(x_adv) by E of the images without attack and augmentation (Yang et al. 2023).
    """

    eps: NonNegative  # Linf radius, images in [0, 1]
    attack_steps: Count = 1  # 1 in the paper
    step_size: Positive | None = None  # null: eps, as in the paper
    gradient_at: Literal["clean", "start"] = "clean"
    sampler: Langevin
    positives: Literal["adversarial", "plain"] = "adversarial"

    def attack(self, f: Logits, x: Tensor, y: Tensor, streams: Streams) -> Tensor:
        """x_adv (B, C, H, W)."""
        ball, step_size = Linf(), self.eps if self.step_size is None else self.step_size
        d = ball.random_start(x.shape, self.eps, streams)
        for step in range(self.attack_steps):
            where = x if step == 0 and self.gradient_at == "clean" else (x + d).clamp(0, 1)
            g = grad(conditional(f, y), where)
            d = ball.project(d + step_size * ball.direction(g), self.eps)
        return (x + d).clamp(0, 1)

    def loss(self, net: Network, batch: Batch, step: int) -> Loss:
        x, y = batch.x, batch.y
        with self.passes.sampling(net) as f:
            x_adv = self.attack(f, x, y, self.streams("attack", step, count=len(x)))
            x_neg, _ = self.negatives(f, len(x), step)
        data = [batch.x_plain, x_adv] if self.plain else [x_adv]
        f_neg, *f_data = self.passes(net, x_neg, *data)  # the data last, for batch norm's running statistics
        ce = posterior.of(f_data[-1], y).mean()
        term, logs = self.contrast(marginal.of(f_data[0]), marginal.of(f_neg))
        return Loss(ce + term, {"ce": ce, **logs}, x_adv=x_adv, x_neg=x_neg)
