"""How data passes through a network: the precision, CUDA graphs, and whether batches are joined."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor, nn

from advebm.networks.flow import Flow
from advebm.networks.graphs import Recorded, Replayed
from advebm.networks.norms import live, still
from advebm.networks.wrn import Classifier
from advebm.ranges import Precision

if TYPE_CHECKING:  # only training depends on the code of this sampler
    from advebm.samplers.proximal import Stem


class View(Protocol):
    """A network as chains and attacks see it: f(x); for a classifier, f(x) = body(stem(x))."""

    @property
    def outputs(self) -> int: ...
    @property
    def stem(self) -> "Stem": ...
    def body(self, h: Tensor) -> Tensor: ...
    def __call__(self, x: Tensor) -> Tensor: ...


@dataclass
class Passes:
    """Created once for a training or a measurement and passed to its chains and attacks.

    precision: of chains and attacks; weights and images stay float32. graphs: chains and attacks use CUDA graphs for the
    trunk of a classifier, kept here for one network. joint: the batches of a loss are one pass.
    """

    precision: Precision = "fp32"
    graphs: bool = False
    joint: bool = False
    recorded: Recorded | None = field(default=None, init=False, repr=False)

    @classmethod
    def on(cls, device: torch.device | str, precision: Precision = "fp32") -> "Passes":
        """The fastest passes on that device: launches of small kernels and small batches leave a GPU idle."""
        gpu = torch.device(device).type == "cuda"
        return cls(precision, graphs=gpu, joint=gpu)

    @contextmanager
    def sampling(self, net: nn.Module) -> Iterator[View]:
        """Yields the network for chains and attacks: `net` in its present mode, so that they see the same function as the
        loss (networks/norms.py). In training mode batch norm uses the statistics of the batch without updating the running
        ones."""
        with still(net), autocast(self.precision, net):
            if self.graphs and isinstance(net, Classifier):
                if self.recorded is None or self.recorded.trunk is not net.trunk:
                    self.recorded = Recorded(net.trunk)
                yield Replayed(net, self.recorded)
            else:
                yield cast(View, net)

    def __call__(self, net: nn.Module, *batches: Tensor) -> tuple[Tensor, ...]:
        """f(x) (B, K) of each batch, for a loss. Batches pass one after another: batch norm uses the statistics of each,
        and the last batch updates the running ones last. Without live batch norms they may be one pass, except on a CPU,
        whose caches suit smaller batches."""
        if live(net) or not self.joint:
            return tuple(map(net, batches))
        return net(torch.cat(batches)).split([len(x) for x in batches])


@contextmanager
def convolving(precision: Precision) -> Iterator[None]:
    """In this block float32 convolutions use TF32 on a GPU, forward and backward, unless the precision is `fp32`."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = precision != "fp32"
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@contextmanager
def autocast(precision: Precision, net: nn.Module) -> Iterator[None]:
    """In this block passes of `net` are in bfloat16 if the precision is `bf16` and the hardware supports it, else in
    float32 (see `convolving`). Flows stay in float32: a log density needs more than 8 bits."""
    device = next(net.parameters()).device
    low = precision == "bf16" and has_bf16(device) and not isinstance(net, Flow)
    with convolving(precision), torch.autocast(device.type, torch.bfloat16, enabled=low):
        yield


def has_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 faster than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
