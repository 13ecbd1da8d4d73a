"""Passes through a trunk as CUDA graphs, each launched as a whole: most of what a step of a chain or an attack launches."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from advebm.networks.wrn import Classifier
from advebm.runtime import ranks

KEPT = 8  # recordings at a time, such as whole batches, the last one and both precisions; the oldest is released
WARM = 3  # passes before the recording, in which libraries choose their kernels and allocate what they need


class Recorded:
    """A trunk's pass forward and its pass back to the input, recorded when a shape, a precision or a mode is first met.

    A replay reads the weights where they lie, so they may be trained between, and writes where the last one wrote: use a
    result before the next pass. The recordings share their memory, so a pass goes back once at most, and before any other
    goes forward. It has no gradient of the weights and no second derivative. AssertionError where more is asked.

    Where a pass cannot be recorded (no memory left, an operation that waits for the device or for other processes), it runs
    as it would have.
    """

    def __init__(self, trunk: nn.Module):
        self.trunk = trunk
        self.graphs: dict[tuple, Pass | None] = {}  # None: could not be recorded
        self.pool: Any = None  # of the newest recording; None: the next one has a new pool
        self.turn = 0  # counts the passes forward, and those back

    @cached_property
    def stream(self) -> torch.cuda.Stream:
        """Where all is recorded: the memory of a pool can be shared on one stream only."""
        return torch.cuda.Stream()

    def __call__(self, h: Tensor) -> Tensor:
        if not h.requires_grad:
            return self.trunk(h)
        place, low = h.device.type, torch.is_autocast_enabled(h.device.type)
        key = h.shape, h.dtype, low, torch.backends.cudnn.allow_tf32, self.trunk.training
        if key not in self.graphs:
            if len(self.graphs) == KEPT:
                del self.graphs[next(iter(self.graphs))]
            with recording(self.trunk), torch.autocast(place, torch.bfloat16, enabled=low, cache_enabled=False):
                self.graphs[key] = self._record(h)
        graphs = self.graphs[key]
        return Replay.apply(self, graphs, h) if graphs else self.trunk(h)

    def _record(self, h: Tensor) -> "Pass | None":
        if ranks.size() > 1 and any(type(layer) is ranks.BatchNorm and layer.training for layer in self.trunk.modules()):
            return None
        pool, self.pool = self.pool, None  # one that a recording failed in is not used again
        try:
            graphs = Pass(self.trunk, h, self.stream, pool)
        except RuntimeError:
            return None
        self.pool = graphs.forward.pool()
        return graphs


class Replayed:
    """A classifier as chains and attacks see it, its trunk passed through by recordings."""

    def __init__(self, net: Classifier, trunk: Recorded):
        self.stem, self.trunk, self.head, self.outputs = net.stem, trunk, net.head, net.outputs

    def body(self, h: Tensor) -> Tensor:
        return self.head(self.trunk(h))

    def __call__(self, x: Tensor) -> Tensor:
        return self.body(self.stem(x))


class Pass:
    """A pass forward and the pass back as two graphs. They read `h` and `slope` and write `out` and `grad`."""

    def __init__(self, f: Callable[[Tensor], Tensor], h: Tensor, stream: torch.cuda.Stream, pool: Any):
        self.h = h.detach().clone().requires_grad_()
        self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        # All on one stream: torch warns of a gradient that arrives on another stream than its leaf was first used on.
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM):
                out = f(self.h)
                torch.autograd.grad(out, self.h, torch.zeros_like(out))
                del out  # with all that leads from it to the leaf
        # Other threads, as NCCL's, go on meanwhile.
        how: dict[str, Any] = {"stream": stream, "capture_error_mode": "thread_local"}
        with torch.cuda.graph(self.forward, pool=pool, **how):
            out = f(self.h)
        self.out, self.slope = out.detach(), torch.empty_like(out)
        with torch.cuda.graph(self.backward, pool=self.forward.pool(), **how):
            (self.grad,) = torch.autograd.grad(out, self.h, self.slope)


class Replay(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, recorded: Recorded, graphs: Pass, h: Tensor) -> Tensor:
        recorded.turn += 1
        context.recorded, context.graphs, context.turn = recorded, graphs, recorded.turn
        graphs.h.copy_(h)
        graphs.forward.replay()
        return graphs.out.detach()

    @staticmethod
    def backward(context: Any, slope: Tensor) -> tuple[None, None, Tensor]:
        recorded, graphs = context.recorded, context.graphs
        assert not torch.is_grad_enabled(), "a recorded pass has no second derivative"
        assert context.turn == recorded.turn, "this pass went back before, or another went forward since"
        recorded.turn += 1
        graphs.slope.copy_(slope)
        graphs.backward.replay()
        return None, None, graphs.grad.detach()


@contextmanager
def recording(trunk: nn.Module) -> Iterator[None]:
    """In this block the weights take no part in gradients, and no graph that went before is destroyed, which would spoil
    the one that is recorded; afterwards the stream is that of before, also where recording failed. Hooks of
    DistributedDataParallel stay: they are on nodes that it keeps."""
    stream, collects = torch.cuda.current_stream(), gc.isenabled()
    trained = [weight for weight in trunk.parameters() if weight.requires_grad]
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
