"""WEAT: adversarial training weighted by energy (Mirza et al. 2024)."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn.functional import softplus

from advebm.data.batches import Batch
from advebm.energy import divergence, marginal, negative, posterior
from advebm.methods.base import Loss, Method
from advebm.networks import Network
from advebm.ranges import NonNegative
from advebm.samplers.pgd import Attack


@dataclass(kw_only=True)
class WEAT(Method):
    """min w(x) (CE(x, y) + beta KL(p(. | x), p(. | x_adv))), w(x) = 1 / log(1 + exp |E(x)|), without a gradient of its own.

    x_adv maximises the divergence, as in TRADES (Zhang et al. 2019), which this is without the weights (methods/at.py).
    With `ce: adversarial`, WEAT_adv, the cross-entropy is that of x_adv. The released attack starts from x + .001 N(0, I)
    and has the network in evaluation mode; ours starts from anywhere in the ball, in the mode of the loss.
    """

    attack: Attack
    beta: NonNegative = 6.0
    ce: Literal["clean", "adversarial"] = "clean"

    def __post_init__(self) -> None:
        if not self.attack.random_start:
            raise ValueError("attack.random_start: must be true, as the divergence has no gradient at x")

    def loss(self, net: Network, batch: Batch, step: int) -> Loss:
        x, y = batch.x, batch.y
        with self.passes.sampling(net) as f:
            x_adv = self.attack(negative(divergence(f, f(x).detach())), x, self.streams("attack", step, count=len(x)))
        f_adv, f_x = self.passes(net, x_adv, x)
        weight = weights(marginal.of(f_x))
        ce = posterior.of(f_x if self.ce == "clean" else f_adv, y)
        kl = divergence.of(f_adv, f_x)
        logs = {"ce": ce.mean(), "kl": kl.mean(), "energy": marginal.of(f_x).mean(), "weight": weight.mean()}
        return Loss((weight * (ce + self.beta * kl)).mean(), logs, x_adv=x_adv)


def weights(e: Tensor) -> Tensor:
    """1 / log(1 + exp |E|), (B,)."""
    return 1 / softplus(e.detach().abs())
