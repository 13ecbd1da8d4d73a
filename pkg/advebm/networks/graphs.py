"""Passes through a trunk as CUDA graphs: one launch replaces most kernel launches of a step of a chain or an attack."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from advebm.networks.wrn import Classifier
from advebm.runtime import ranks

KEPT = 8  # recordings kept, of several batch sizes and precisions; the oldest is released
WARM = 3  # passes before recording, in which libraries choose kernels and allocate memory


class Recorded:
    """A trunk's forward pass and its backward pass to the input, recorded for each new shape, precision and mode.

    A replay reads the weights in place, so they may be trained in between. It overwrites the last result: use that before
    the next pass. Recordings share their memory: a pass can go backward once, before any other goes forward. There
    are no gradients of the weights and no second derivatives. Raises AssertionError for any other use.

    A pass that cannot be recorded (out of memory, an operation that synchronises with the device or other processes) runs
    without recording.
    """

    def __init__(self, trunk: nn.Module):
        self.trunk = trunk
        self.graphs: dict[tuple, Pass | None] = {}  # None: cannot be recorded
        self.pool: Any = None  # memory of the newest recording; None: the next one has a new pool
        self.turn = 0  # counts the passes, forward and backward

    @cached_property
    def stream(self) -> torch.cuda.Stream:
        """The stream of all recordings: a pool can share its memory on one stream only."""
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
        pool, self.pool = self.pool, None  # a pool in which a recording failed is not reused
        try:
            graphs = Pass(self.trunk, h, self.stream, pool)
        except RuntimeError:
            return None
        self.pool = graphs.forward.pool()
        return graphs


class Replayed:
    """A classifier for chains and attacks, whose trunk is replayed from recordings."""

    def __init__(self, net: Classifier, trunk: Recorded):
        self.stem, self.trunk, self.head, self.outputs = net.stem, trunk, net.head, net.outputs

    def body(self, h: Tensor) -> Tensor:
        return self.head(self.trunk(h))

    def __call__(self, x: Tensor) -> Tensor:
        return self.body(self.stem(x))


class Pass:
    """The forward and the backward pass as two graphs, which read `h` and `slope` and write `out` and `grad`."""

    def __init__(self, f: Callable[[Tensor], Tensor], h: Tensor, stream: torch.cuda.Stream, pool: Any):
        self.h = h.detach().clone().requires_grad_()
        self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        # One stream: torch warns if a gradient arrives on another stream than the one its leaf was first used on.
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM):
                out = f(self.h)
                torch.autograd.grad(out, self.h, torch.zeros_like(out))
                del out  # and its autograd graph
        # Other threads, such as NCCL's, may use CUDA meanwhile.
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
        assert context.turn == recorded.turn, "this pass already went backward, or another went forward since"
        recorded.turn += 1
        graphs.slope.copy_(slope)
        graphs.backward.replay()
        return None, None, graphs.grad.detach()


@contextmanager
def recording(trunk: nn.Module) -> Iterator[None]:
    """In this block weights require no gradients, and the garbage collector destroys no older graph, which would invalidate
    the recording. Afterwards the stream is restored, even if recording failed. DistributedDataParallel keeps the autograd
    nodes with its hooks, so the hooks remain."""
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
