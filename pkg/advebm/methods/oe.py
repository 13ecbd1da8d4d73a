"""Outlier exposure (Hendrycks et al. 2018)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from advebm.data.batches import Batch
from advebm.energy import posterior, undecided
from advebm.methods.base import Loss, Method
from advebm.ranges import NonNegative


@dataclass(kw_only=True)
class OE(Method):
    """min CE(x, y) + weight CE(x_out, uniform) (Section 4.3); detects by the maximal softmax probability."""

    outliers: ClassVar[bool] = True
    detector: ClassVar[str] = "max_softmax"
    weight: NonNegative = 0.5

    def loss(self, net: nn.Module, batch: Batch, step: int) -> Loss:
        x, y, x_out = batch
        ce_out = undecided(net)(x_out).mean()  # before the data, so that batch norm's statistics end on the data
        ce = posterior(net, y)(x).mean()
        return Loss(ce + self.weight * ce_out, {"ce": ce, "ce_out": ce_out})
