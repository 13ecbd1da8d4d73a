"""Batch norm, and how chains, attacks and loss see the same function.

With batch norm in training mode f(x) depends on the batch of x and on the statistics that a pass uses. A network's field
`norm` chooses among three treatments:

- `none`, `group`: no batch statistics.
- `frozen`: the statistics of the warm start, or of the initialisation, are kept; scale and shift are trained. `fixed`:
  scale and shift are kept too. f(x) is the same in every pass (Yin et al. 2025, DAT).
- `batch`: chains, attacks and each term of a loss use the statistics of their own batch, as in the released code of JEM++
  (Yang and Ji 2021): the network samples in training mode. The running statistics, which classification uses, are updated
  by the passes of the loss alone, the data last. The released code updates them in chains too; with its momentum of .9 the
  last pass contributes nine tenths in either case.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that stays in evaluation mode: its statistics are 0 and 1, or those that were loaded.

    trained: whether scale and shift are trained.
    """

    def __init__(self, channels: int, *, trained: bool = True):
        super().__init__(channels)
        for own in self.parameters():
            own.requires_grad_(trained)
        self.train()

    def train(self, mode: bool = True) -> "FrozenBatchNorm2d":
        return super().train(False)


def live(net: nn.Module) -> list[nn.BatchNorm2d]:
    """The batch norms that use the statistics of their batch in the present mode of `net`."""
    return [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d) and layer.training]


@contextmanager
def still(net: nn.Module) -> Iterator[None]:
    """In this block live batch norms do not update their running statistics."""
    norms = live(net)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


@contextmanager
def repeated(net: nn.Module) -> Iterator[None]:
    """In this block `net` repeats a pass: live batch norms leave their running statistics and their count of batches."""
    tracked = [count for norm in live(net) if (count := norm.num_batches_tracked) is not None]
    counts = [(count, count.clone()) for count in tracked]
    try:
        with still(net):
            yield
    finally:
        for count, before in counts:
            count.copy_(before)
