"""Outlier exposure (Hendrycks et al. 2018)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from advebm.data.batches import Batch
from advebm.energy import given, posterior, undecided
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
        f, f_out = net(torch.cat([x, x_out])).chunk(2)  # one pass: batch norm has the statistics of both, as at testing
        ce, ce_out = posterior(given(f), y)(x).mean(), undecided(given(f_out))(x_out).mean()
        return Loss(ce + self.weight * ce_out, {"ce": ce, "ce_out": ce_out})
