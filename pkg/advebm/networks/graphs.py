"""Passes through a trunk as CUDA graphs, each launched as a whole: most of what a step of a chain or an attack launches."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
        if not h.requires_grad or _get_current_dispatch_mode() is not None:
            return self.passes(h)
        low = torch.is_autocast_enabled("cuda")
        key = h.shape, h.dtype, low, torch.backends.cudnn.allow_tf32
        if key not in self.graphs:
            with recording(self.weights), torch.autocast("cuda", torch.bfloat16, enabled=low, cache_enabled=False):
                self.graphs[key] = self._record(h.detach().clone().requires_grad_())
        return self.graphs[key](h)

    def _record(self, sample: Tensor) -> Callable[[Tensor], Tensor]:
        try:
            return torch.cuda.make_graphed_callables(self.passes, (sample,))
        except RuntimeError:
            return self.passes


@contextmanager
def recording(weights: list[nn.Parameter]) -> Iterator[None]:
    """In this block the weights take no part in gradients, and no graph that went before is destroyed, which would spoil
    the one that is recorded; afterwards the stream is that of before, also where recording failed."""
    stream, collects = torch.cuda.current_stream(), gc.isenabled()
    trained = [weight for weight in weights if weight.requires_grad]
    gc.collect()
    gc.disable()
    for weight in trained:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in trained:
            weight.requires_grad_(True)
        if collects:
            gc.enable()
        torch.cuda.set_stream(stream)
