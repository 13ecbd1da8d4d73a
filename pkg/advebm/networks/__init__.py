"""Networks: their specs, and how model files are saved and loaded."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Discriminator, TypeAdapter
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from advebm.data.images import digest
from advebm.networks.flow import Flow, Glow, ResidualFlow
from advebm.networks.resnet import ResNet
from advebm.networks.wrn import Classifier, WideResNet
from advebm.runtime import tensors

SIDE = 4096  # of the images of a network at most

NETWORKS = {"wrn": WideResNet, "resnet": ResNet, "glow": Glow, "residual_flow": ResidualFlow}
Spec = Annotated[WideResNet | ResNet | Glow | ResidualFlow, Discriminator("kind")]
Network = Classifier | Flow
SAME = 1.0e-6  # outputs that differ by less than this part of them are the same: those of a new network differ by .1


@contextmanager
def frozen(net: nn.Module) -> Iterator[nn.Module]:
    """In this block the network is in evaluation mode; afterwards its mode is restored."""
    training = net.training
    try:
        yield net.eval()
    finally:
        net.train(training)


def save(path: Path, net: Network, **about: Any) -> None:
    """Write the weights as safetensors; its JSON metadata holds the spec of the network, `about`, and a sha256."""
    network = {key: value for key, value in asdict(net.spec).items() if key != "checkpoint" or value}
    header = {"network": network, "shape": list(net.shape), "outputs": net.outputs, **about}
    tensors.write(path, net.state_dict(), header)


def load(
    path: Path, device: torch.device | str = "cpu", *, about: Mapping[str, Any] | None = None, judge: bool = False
) -> tuple[Network, dict[str, Any]]:
    """The network, in evaluation mode, and the header of its model file.

    Raises FileNotFoundError, or ValueError if the file was altered, its weights are not finite or do not fit its spec, the
    network is dead, or it does not fit the prepared images that `about` describes: it must be for images of their shape,
    and have an output for each class or, unless it is to be a judge, a single one.
    """
    net, header = _read(path)
    if about is not None:
        if about["shape"] != list(net.shape):
            raise ValueError(f"{path}: is for images {list(net.shape)}, not {about['shape']}; it belongs to another study")
        if judge and not isinstance(net, Classifier):
            raise ValueError(f"{path}: is a flow, not a judge; `advebm train judge` makes one")
        if net.outputs != about["classes"] and (judge or net.outputs != 1):
            what = "it is not the study's judge" if judge else "it belongs to another study"
            raise ValueError(f"{path}: has {net.outputs} outputs for {about['classes']} classes; {what}")
    net = net.to(device).eval().requires_grad_(False)
    if dead(net, torch.rand(8, *net.shape, generator=torch.Generator().manual_seed(0)).to(device)):
        raise ValueError(f"{path}: gives every image the same outputs; train it again with a lower learning rate")
    return net, header


@torch.no_grad()
def dead(net: Network, x: Tensor) -> bool:
    """Whether the outputs for all images x are the same, up to rounding, as where ReLUs have died."""
    with frozen(net):
        f = net(x)
    return bool((f.amax(0) - f.amin(0) <= SAME * f.abs().amax(0)).all())


def initialise(net: Network, path: Path) -> None:
    """Load the weights of a model file into `net`. Their specs may differ in the norm only, such as `frozen` and `batch`.
    Raises FileNotFoundError, or ValueError with the difference."""
    other, _ = _read(path)
    ours, theirs = (vars(own.spec) | {"outputs": own.outputs, "shape": own.shape} for own in (net, other))
    for key, value in ours.items():
        if key not in ("norm", "bn_momentum", "checkpoint") and value != theirs.get(key):
            raise ValueError(
                f"{path}: its network has {key} {theirs.get(key)}, not {value}; training can only start from the same "
                "network, except for its norm"
            )
    if net.state_dict().keys() != other.state_dict().keys():
        raise ValueError(f"{path}: its network has norm {theirs['norm']}, which does not fit norm {ours['norm']}")
    net.load_state_dict(other.state_dict())


def header(path: Path) -> dict[str, Any]:
    """What `save` wrote about a model, without its weights."""
    return tensors.about(path)


def beside(model: Path, name: str) -> Path | None:
    """The file of that name which training wrote before its model, and whose sha256 the model holds; None if it wrote none.
    Raises ValueError where it is another now."""
    file, written = model.with_name(name), header(model).get("beside")
    if written is None:  # of an earlier version
        return file if file.exists() else None
    if name not in written:
        return None
    if not file.is_file() or digest(file) != written[name]:
        raise ValueError(f"{file}: is not the file that was written with {model}; restore it, or train again")
    return file


def _read(path: Path) -> tuple[Network, dict[str, Any]]:
    """The contents of a model file: the network, in training mode, and the header."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such model file; `advebm train` makes one")
    try:
        about = header(path)
        kind = NETWORKS[about["network"]["kind"]]
        TypeAdapter(kind).validate_python(about["network"])
        spec = kind(**about["network"])
        _check_size(path, spec, about["shape"], about["outputs"])
        state, about = tensors.read(path)
        net = spec.build(about["shape"], about["outputs"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError, RecursionError) as error:
        raise ValueError(f"{path}: is not a readable advebm model ({error}); it may be damaged") from error
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{path}: {name} is not finite: its training diverged; train it again with other numbers")
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path}: the weights do not fit the network ({' '.join(str(error).split())})") from error
    return net, about


def _check_size(path: Path, spec: WideResNet | ResNet | Glow | ResidualFlow, shape: list[int], outputs: int) -> None:
    """Raises ValueError if the tensors of the file are too few or too small for the network: it could take all memory."""
    with safe_open(path, framework="pt") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    sizes = {size for own in shapes for size in own}
    if isinstance(spec, Glow | ResidualFlow):
        fits = spec.hidden in sizes and spec.levels * spec.blocks <= len(shapes)
    else:
        fits = outputs in sizes and (isinstance(spec, ResNet) or 64 * spec.width in sizes)
    if not fits:
        raise ValueError("its tensors do not have the sizes that its header says")
    if len(shape) != 3 or not all(0 < side <= SIDE for side in shape):
        raise ValueError(f"the images {shape} of its header are not 3 numbers from 1 to {SIDE}")


def device() -> torch.device:
    """The GPU of this process if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
