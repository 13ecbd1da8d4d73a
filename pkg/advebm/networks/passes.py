"""How passes through a network are made: in which precision, by CUDA graphs or not, batch by batch or jointly."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from advebm.networks.flow import Flow
from advebm.networks.graphs import Recorded, Replayed
from advebm.networks.norms import live, still
from advebm.networks.wrn import Classifier
from advebm.ranges import Precision
from advebm.samplers.proximal import Stem


class View(Protocol):
    """What chains and attacks see of a network: f(x); of a classifier, f(x) = body(stem(x))."""

    @property
    def outputs(self) -> int: ...
    @property
    def stem(self) -> Stem: ...
    def body(self, h: Tensor) -> Tensor: ...
    def __call__(self, x: Tensor) -> Tensor: ...


@dataclass
class Passes:
    """Made where a training or a measurement begins, and handed to what samples in it.

    precision: of chains and attacks; the weights and the images stay float32. graphs: chains and attacks pass through the
    trunk of a classifier by CUDA graphs, which are kept here for one network. joint: the batches of a loss are one pass.
    """

    precision: Precision = "fp32"
    graphs: bool = False
    joint: bool = False
    recorded: Recorded | None = field(default=None, init=False, repr=False)

    @classmethod
    def on(cls, device: torch.device | str, precision: Precision = "fp32") -> "Passes":
        """The fastest on that device: a GPU is left idle by the launches of small kernels, and by small batches."""
        gpu = torch.device(device).type == "cuda"
        return cls(precision, graphs=gpu, joint=gpu)

    @contextmanager
    def sampling(self, net: nn.Module) -> Iterator[View]:
        """In this block chains and attacks run on the network that it yields: `net` in the mode that it is in, so that they
        see the loss's function (networks/norms.py). In training mode batch norm takes the statistics of the batch, and its
        running statistics stay."""
        with still(net), autocast(self.precision, net):
            if self.graphs and isinstance(net, Classifier):
                if self.recorded is None or self.recorded.trunk is not net.trunk:
                    self.recorded = Recorded(net.trunk)
                yield Replayed(net, self.recorded)
            else:
                yield cast(View, net)

    def __call__(self, net: nn.Module, *batches: Tensor) -> tuple[Tensor, ...]:
        """f(x) (B, K) of each batch, to train the weights by: one after another, so that batch norm has the statistics of
        each and ends on those of the last. Where no batch norm is live they may be one pass; the caches of a CPU prefer
        the smaller batches."""
        if live(net) or not self.joint:
            return tuple(map(net, batches))
        return net(torch.cat(batches)).split([len(x) for x in batches])


@contextmanager
def convolving(precision: Precision) -> Iterator[None]:
    """In this block convolutions of float32, forward and back, are TF32 on a GPU unless `fp32` is asked for."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = precision != "fp32"
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@contextmanager
def autocast(precision: Precision, net: nn.Module) -> Iterator[None]:
    """In this block passes of `net` are in bfloat16 where it is asked for and the machine has it; else in float32, see
    `convolving`. A flow's never are: a log density needs more than 8 bits."""
    device = next(net.parameters()).device
    low = precision == "bf16" and has_bf16(device) and not isinstance(net, Flow)
    with convolving(precision), torch.autocast(device.type, torch.bfloat16, enabled=low):
        yield


def has_bf16(device: torch.device) -> bool:
    """Whether the machine multiplies bfloat16 faster than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    known = torch.cpu.get_capabilities()
    return any(known.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
