"""Training with noise, "blind" adversarial training (Zhu et al. 2021, Section 3.2)."""

from dataclasses import dataclass

from advebm.data.batches import Batch
from advebm.energy import posterior
from advebm.methods.base import Loss, Method
from advebm.networks import Network
from advebm.ranges import NonNegative


@dataclass(kw_only=True)
class Noise(Method):
    """min CE(x + n, y), n ~ N(0, std^2 I), x + n not clipped (Zhu et al. 2021, Fig. 5: 8, 16 and 24/255, which we
    take for standard deviations)."""

    std: NonNegative  # images in [0, 1]

    def loss(self, net: Network, batch: Batch, step: int) -> Loss:
        x, y = batch.x, batch.y
        x_noisy = x + self.std * self.streams("noise", step, count=len(x)).normal(*x.shape[1:])
        ce = posterior(net, y)(x_noisy).mean()
        return Loss(ce, {"ce": ce}, x_adv=x_noisy)
