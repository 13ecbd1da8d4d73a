"""Networks: what a model file holds, how it is built, saved and loaded."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Discriminator
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from advebm.networks.flow import Flow, Glow, ResidualFlow
from advebm.networks.graphs import Recorded
from advebm.networks.norms import live
from advebm.networks.resnet import ResNet
from advebm.networks.wrn import Classifier, WideResNet
from advebm.ranges import Precision

NETWORKS = {"wrn": WideResNet, "resnet": ResNet, "glow": Glow, "residual_flow": ResidualFlow}
Spec = Annotated[WideResNet | ResNet | Glow | ResidualFlow, Discriminator("kind")]
Network = Classifier | Flow


class frozen:
    """In this block the network is in evaluation mode; afterwards it is as it was."""

    def __init__(self, net: nn.Module):
        self.net = net

    def __enter__(self) -> nn.Module:
        self.training = self.net.training
        return self.net.eval()

    def __exit__(self, *error) -> None:
        self.net.train(self.training)


@contextmanager
def sampling(net: nn.Module) -> Iterator[nn.Module]:
    """In this block a chain or an attack runs on `net` in the mode that it is in, so that it sees the loss's function
    (networks/norms.py): in training mode batch norm takes the statistics of the batch, and its running statistics
    stay. Passes are as `accelerated` says, in full float32 where it was not called."""
    norms = live(net)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    recorded = getattr(net, "recorded", None)
    if recorded:
        net.trunk.forward = recorded
    try:
        with cast(getattr(net, "precision", "fp32"), net):
            yield net
    finally:
        if recorded:
            del net.trunk.forward
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def accelerated(net: nn.Module, precision: Precision) -> nn.Module:
    """Samplers and attacks go through this network in that precision, and on a GPU by CUDA graphs, where `passes` are joint
    too. The weights and the images stay float32."""
    device = next(net.parameters()).device
    net.precision, net.joint = precision, device.type == "cuda"
    net.recorded = Recorded(net.trunk) if device.type == "cuda" and hasattr(net, "trunk") else None
    return net


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
def cast(precision: Precision, net: nn.Module) -> Iterator[None]:
    """In this block passes of `net` are in bfloat16 where it is asked for and the machine has it; else in float32, see
    `convolving`. A flow's never are: a log density needs more than 8 bits."""
    device = next(net.parameters()).device
    low = precision == "bf16" and has_bf16(device) and not isinstance(net, Flow)
    with convolving(precision), torch.autocast(device.type, torch.bfloat16, enabled=low):
        yield


def passes(net: nn.Module, *batches: Tensor) -> tuple[Tensor, ...]:
    """f(x) (B, K) of each batch, to train the weights by: one after another, so that batch norm has the statistics of each
    and ends on those of the last. By one pass on a GPU, which small batches leave idle, where no batch norm is live; the
    caches of a CPU prefer the smaller batches."""
    if live(net) or not getattr(net, "joint", False):
        return tuple(map(net, batches))
    return net(torch.cat(batches)).split([len(x) for x in batches])


def has_bf16(device: torch.device) -> bool:
    """Whether the machine multiplies bfloat16 faster than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    known = torch.cpu.get_capabilities()
    return any(known.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def save(path: Path, net: Network, **about: Any) -> None:
    """Write weights as safetensors with what is needed to build the network again, and `about`, as JSON metadata."""
    header = {
        "network": asdict(net.spec),
        "shape": list(net.shape),
        "outputs": net.outputs,
        **about,
    }
    state = {name: tensor.contiguous().cpu() for name, tensor in net.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path, metadata={"advebm": json.dumps(header, sort_keys=True)})


def load(
    path: Path, device: torch.device | str = "cpu", *, shape: Sequence[int] | None = None
) -> tuple[Network, dict[str, Any]]:
    """The network, in evaluation mode, and the header that it was saved with. It measures in float32, as does what goes
    beside it: from here on the convolutions of this process are TF32 only where `cast` says so.

    Raises FileNotFoundError where there is none, ValueError where the file is damaged, its weights do not fit, or it is
    not for images of the shape (C, H, W).
    """
    net, header, state = _read(path)
    if shape is not None and list(shape) != header["shape"]:
        raise ValueError(f"{path}: is for images {header['shape']}, but these are {list(shape)}; it is of another study")
    _fill(net, state, path)
    torch.backends.cudnn.allow_tf32 = False
    return accelerated(net.to(device).eval().requires_grad_(False), "fp32"), header


def initialise(net: Network, path: Path) -> None:
    """Give `net` the weights of a model file of the same network; its norm alone may be another, as `frozen` where the file
    has `batch`. Raises FileNotFoundError, or ValueError that says what differs."""
    other, _, state = _read(path)
    ours, theirs = (vars(own.spec) | {"outputs": own.outputs, "shape": own.shape} for own in (net, other))
    for key, value in ours.items():
        if key not in ("norm", "bn_momentum") and value != theirs.get(key):
            raise ValueError(
                f"{path}: its network has {key} {theirs.get(key)}, not {value}; a training can only start from the same "
                "network, but for its norm"
            )
    if net.state_dict().keys() != state.keys():
        raise ValueError(f"{path}: its network has norm {theirs['norm']}, which does not fit norm {ours['norm']}")
    _fill(net, state, path)


def _read(path: Path) -> tuple[Network, dict[str, Any], dict[str, Tensor]]:
    """What a model file holds: the network, not yet with its weights, the header, and the weights."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no model there; `advebm train` makes one")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["advebm"])
        state = load_file(path)
        net = NETWORKS[header["network"]["kind"]](**header["network"]).build(header["shape"], header["outputs"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: is not a readable advebm model ({error}); it may be damaged") from error
    return net, header, state


def _fill(net: Network, state: dict[str, Tensor], path: Path) -> None:
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path}: weights do not fit the network it names ({' '.join(str(error).split())})") from error


def device() -> torch.device:
    """The GPU of this process where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
