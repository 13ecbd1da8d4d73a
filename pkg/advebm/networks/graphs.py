"""Passes through a trunk as CUDA graphs, launched as a whole: a step of a chain or an attack is hundreds of kernels."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode


class Recorded:
    """A trunk's pass forward and its pass back to the input, recorded for each shape and precision when it is first met.

    A replay reads the weights where they lie, so they may be trained between, and writes where the last one wrote: use a
    result before the next pass. It has no gradient of the weights and no second derivative. Where a pass cannot be recorded
    (no memory left, an operation that waits), or a dispatch mode is to see its operations, it runs as it would have.
    """

    def __init__(self, trunk: nn.Module):
        self.weights, self.passes = list(trunk.parameters()), trunk.forward
        self.graphs: dict[tuple, Callable[[Tensor], Tensor]] = {}

    def __call__(self, h: Tensor) -> Tensor:
        if _get_current_dispatch_mode() is not None:
            return self.passes(h)
        low = torch.is_autocast_enabled("cuda")
        if (h.shape, h.dtype, low) not in self.graphs:
            self.graphs[h.shape, h.dtype, low] = self._record(h, low)
        return self.graphs[h.shape, h.dtype, low](h)

    def _record(self, h: Tensor, low: bool) -> Callable[[Tensor], Tensor]:
        trained = [weight for weight in self.weights if weight.requires_grad]
        try:
            for weight in trained:
                weight.requires_grad_(False)
            with torch.autocast("cuda", torch.bfloat16, enabled=low, cache_enabled=False):  # weights are cast in the graph
                return torch.cuda.make_graphed_callables(self.passes, (h.detach().clone().requires_grad_(),))
        except RuntimeError:
            return self.passes
        finally:
            for weight in trained:
                weight.requires_grad_(True)
