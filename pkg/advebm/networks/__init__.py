"""Networks: what a model file holds, how it is built, saved and loaded."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Discriminator
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from advebm import ranks
from advebm.networks.flow import Flow, Glow, ResidualFlow
from advebm.networks.graphs import Recorded
from advebm.networks.resnet import ResNet
from advebm.networks.wrn import Classifier, WideResNet

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


class sampling(frozen):
    """As `frozen`, and as `accelerated` said: in it a method samples and attacks."""

    def __enter__(self) -> nn.Module:
        place = next(self.net.parameters()).device.type
        self.cast = torch.autocast(place, torch.bfloat16, enabled=getattr(self.net, "bf16", False))
        self.recorded = getattr(self.net, "recorded", None)
        self.cast.__enter__()
        if self.recorded:
            self.net.trunk.forward = self.recorded
        return super().__enter__()

    def __exit__(self, *error) -> None:
        super().__exit__(*error)
        if self.recorded:
            del self.net.trunk.forward
        self.cast.__exit__(*error)


def accelerated(net: nn.Module, bf16: bool) -> nn.Module:
    """Samplers and attacks of a training go through this network in bfloat16, if that is wanted and the machine has it, and
    by CUDA graphs where one process trains on a GPU, where `passes` are joint too. The weights, the images and all that is
    measured stay float32."""
    place = next(net.parameters()).device
    net.bf16, net.joint = bf16 and has_bf16(place), place.type == "cuda"
    net.recorded = Recorded(net.trunk) if place.type == "cuda" and ranks.size() == 1 and hasattr(net, "trunk") else None
    return net


def passes(net: nn.Module, *batches: Tensor) -> tuple[Tensor, ...]:
    """f(x) (B, K) of each batch, to train the weights by: one after another, so that batch norm has the statistics of each
    and ends on those of the last. By one pass on a GPU, which few images keep waiting, where no batch norm is trained; the
    caches of a CPU prefer the smaller batches."""
    mixes = any(isinstance(layer, nn.BatchNorm2d) and layer.training for layer in net.modules())
    if mixes or not getattr(net, "joint", False):
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
    """The network, in evaluation mode, and the header that it was saved with. What is generated and measured by it is in
    float32: from here on the convolutions of this process are not TF32.

    Raises FileNotFoundError where there is none, ValueError where the file is damaged, its weights do not fit, or it is
    not for images of the shape (C, H, W).
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no model there; `advebm train` makes one")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["advebm"])
        state = load_file(path)
        net = NETWORKS[header["network"]["kind"]](**header["network"]).build(header["shape"], header["outputs"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: is not a readable advebm model ({error}); it may be damaged") from error
    if shape is not None and list(shape) != header["shape"]:
        raise ValueError(f"{path}: is for images {header['shape']}, but these are {list(shape)}; it is of another study")
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path}: weights do not fit the network it names ({' '.join(str(error).split())})") from error
    torch.backends.cudnn.allow_tf32 = False
    return net.to(device).eval().requires_grad_(False), header


def device() -> torch.device:
    """The GPU of this process where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
