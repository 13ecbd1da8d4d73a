"""AT-EBM: an energy-based model by binary adversarial training (Yin, Li and Rohde 2022)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from advebm.data.batches import Batch
from advebm.energy import binary, marginal, negative
from advebm.methods.ascent import AscentMethod
from advebm.methods.base import Loss
from advebm.networks import Network
from advebm.ranges import NonNegative
from advebm.samplers.pgd import Ascent


@dataclass(kw_only=True)
class ATEBM(AscentMethod):
    """min -log D(x) - log(1 - D(x*)) + r1/2 |df(x)/dx|^2, D = sigmoid(f[0]), E = -f[0] (Algorithm 1).

    `objective: ebm` is mean f(x*) - mean f(x) (Section 5.3), which diverges.
    """

    descent: Ascent | None = None  # of f from x, which moves the data as in the released code; null: Algorithm 1
    r1: NonNegative = 0.0  # gamma, for gradients of images in [0, 1]
    objective: Literal["bce", "ebm"] = "bce"

    def outputs(self, classes: int) -> int:
        return 1

    def loss(self, net: Network, batch: Batch, step: int) -> Loss:
        x = batch.x.detach().requires_grad_(self.r1 > 0)
        x_adv = None
        with self.passes.sampling(net) as f:
            x_star = self.negatives(marginal(f), batch, step)
            if self.descent is not None:
                x = x_adv = self.descent(negative(marginal(f)), x).requires_grad_(self.r1 > 0)
        f_star, f_data = net(x_star), net(x)  # separate passes, as R1 differentiates only the second twice
        e, e_star = marginal.of(f_data), marginal.of(f_star)
        if self.objective == "bce":
            value = (binary.of(f_data, real=True) + binary.of(f_star, real=False)).mean()
        else:
            value = (e - e_star).mean()
        if self.r1:
            (gradient,) = torch.autograd.grad(e.sum(), x, create_graph=True)
            value = value + self.r1 / 2 * gradient.flatten(1).square().sum(1).mean()
        logs = {"energy": e.mean(), "energy_gap": e.mean() - e_star.mean(), **self.judged(e, e_star, step)}
        return Loss(value, logs, x_adv=x_adv, x_neg=x_star)

    def score(self, net: Network, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        logits = net(x)
        return {"energy": marginal.of(logits), "bce": binary.of(logits, real=True)}
