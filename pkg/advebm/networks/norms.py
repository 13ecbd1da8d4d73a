"""Batch norm, and what makes chains, attacks and loss see one function.

A batch norm that is trained makes f(x) depend on the batch that x is in, and on which statistics a pass takes. The networks
have three ways with it, by their field `norm`:

- `none`, `group`: no statistics of a batch at all.
- `frozen`: the statistics of a warm start, or of the initialisation, stay; scale and shift are trained. `fixed`: these
  stay too. f(x) is the same in every pass (Yin et al. 2025, DAT).
- `batch`: chains, attacks and each term of a loss are normalised by the statistics of their own batch, as JEM++ was
  released (Yang and Ji 2021): the network stays in training mode while it samples. The running statistics, which
  classification uses, are updated by the passes of the loss alone, those of the data last. The released code updates them
  in chains too; with its momentum of .9 the last pass makes nine tenths of them either way.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that never leaves evaluation mode: its statistics stay 0 and 1, or those that it is loaded with.

    trained: whether its scale and shift are.
    """

    def __init__(self, channels: int, *, trained: bool = True):
        super().__init__(channels)
        for own in self.parameters():
            own.requires_grad_(trained)
        self.train()

    def train(self, mode: bool = True) -> "FrozenBatchNorm2d":
        return super().train(False)


def live(net: nn.Module) -> list[nn.BatchNorm2d]:
    """The batch norms that a pass of `net`, as it is now, normalises by the statistics of its batch."""
    return [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d) and layer.training]


@contextmanager
def still(net: nn.Module) -> Iterator[None]:
    """In this block the running statistics of live batch norms stay as they are."""
    norms = live(net)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
