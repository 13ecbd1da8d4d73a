"""Adversarial training (Madry et al. 2018); Robust JEM's "single robust classifier". As options TRADES and training by one
step."""

from dataclasses import dataclass, replace

from torch import Tensor

from advebm.data.batches import Batch
from advebm.energy import divergence, negative, posterior
from advebm.methods.base import Loss, Method
from advebm.networks import Network
from advebm.ranges import NonNegative
from advebm.samplers.pgd import Attack


@dataclass(kw_only=True)
class AT(Method):
    """min CE(x_adv, y), x_adv = argmax CE(x + d, y) over ||d|| <= eps, by projected gradient steps (Eq. 2.1).

    One step is fast: of 1.25 eps from a random start (Wong et al. 2020, Algorithm 3); or N-FGSM (de Jorge et al. 2022,
    Algorithm 1), of eps from x + u, u ~ U(-noise, noise), noise = 2 eps, where x + u is the centre of the ball. It may
    overfit catastrophically (evaluation/overfitting.py).

    With `beta` TRADES (Zhang et al. 2019, Eq. 5): min CE(x, y) + beta KL(p(. | x), p(. | x_adv)), where x_adv maximises the
    divergence. The released attack starts from x + .001 N(0, I), ours from anywhere in the ball.
    """

    attack: Attack
    noise: NonNegative = 0.0  # added before the attack, images in [0, 1]
    beta: NonNegative | None = None  # 1 / lambda; null: not TRADES

    def __post_init__(self) -> None:
        if self.beta is not None and not self.attack.random_start:
            raise ValueError("attack.random_start: must be true with beta, as the divergence has no gradient at x")

    def loss(self, net: Network, batch: Batch, step: int) -> Loss:
        x, y = batch.x, batch.y
        start = x
        if self.noise:
            u = 2 * self.streams("noise", step, count=len(x)).uniform(*x.shape[1:]) - 1
            start = (x + self.noise * u).clamp(0, 1)
        with self.passes.sampling(net) as f:
            energy = posterior(f, y) if self.beta is None else divergence(f, f(x).detach())
            x_adv = self.attack(negative(energy), start, self.streams("attack", step, count=len(x)))
        if self.beta is None:
            ce = posterior(net, y)(x_adv).mean()
            return Loss(ce, {"ce": ce}, x_adv=x_adv)
        f_adv, f_x = self.passes(net, x_adv, x)
        ce, kl = posterior.of(f_x, y).mean(), divergence.of(f_adv, f_x).mean()
        return Loss(ce + self.beta * kl, {"ce": ce, "kl": kl}, x_adv=x_adv)

    def attacked(self, net: Network, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        if self.attack.steps > 1:
            return {}
        own = replace(self.attack, random_start=False)
        attacks = {"fgsm": replace(own, step_size=own.eps or None), "pgd": replace(own, steps=10, step_size=None)}
        return {name: net(attack(negative(posterior(net, y)), x)).argmax(1) == y for name, attack in attacks.items()}
