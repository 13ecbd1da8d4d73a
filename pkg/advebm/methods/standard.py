"""Standard training of a classifier."""

from dataclasses import dataclass

from advebm.data.batches import Batch
from advebm.energy import posterior
from advebm.methods.base import Loss, Method
from advebm.networks import Network


@dataclass(kw_only=True)
class Standard(Method):
    """min CE(x, y)."""

    def loss(self, net: Network, batch: Batch, step: int) -> Loss:
        x, y = batch.x, batch.y
        ce = posterior(net, y)(x).mean()
        return Loss(ce, {"ce": ce})
