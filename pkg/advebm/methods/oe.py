"""Outlier exposure (Hendrycks et al. 2018)."""

from dataclasses import dataclass
from typing import ClassVar

from advebm.data.batches import Batch
from advebm.energy import posterior, undecided
from advebm.methods.base import Loss, Method
from advebm.networks import Network
from advebm.ranges import NonNegative


@dataclass(kw_only=True)
class OE(Method):
    """min CE(x, y) + weight CE(x_out, uniform) (Section 4.3); the detector is the maximal softmax probability.

    Each term has its own pass, so that with norm `batch` it does not depend on the images of the other; the released code
    passes both together.
    """

    outliers: ClassVar[bool] = True
    detector: ClassVar[str] = "max_softmax"
    weight: NonNegative = 0.5

    def loss(self, net: Network, batch: Batch, step: int) -> Loss:
        x, y, x_out = batch.x, batch.y, batch.x_out
        assert x_out is not None
        f_out, f_data = self.passes(net, x_out, x)  # the data last, for batch norm's running statistics
        ce, ce_out = posterior.of(f_data, y).mean(), undecided.of(f_out).mean()
        return Loss(ce + self.weight * ce_out, {"ce": ce, "ce_out": ce_out})
