"""Wide residual networks (Zagoruyko and Komodakis 2016), as JEM and JEM++ use them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from advebm.networks.norms import FrozenBatchNorm2d
from advebm.networks.recompute import Recomputed
from advebm.ranges import Count, Fraction, Positive

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "leaky_relu": partial(nn.LeakyReLU, 0.2),
    "relu": nn.ReLU,
    "silu": nn.SiLU,
}


@dataclass(kw_only=True)
class WideResNet:
    """WRN-depth-width. JEM: norm none, leaky_relu; JEM++: norm batch with momentum .9, leaky_relu (slope .2)."""

    kind: Literal["wrn"] = "wrn"
    depth: Literal[10, 16, 22, 28, 34, 40] = 28  # 6 n + 4
    width: Count = 10
    norm: Literal["none", "batch", "group", "frozen", "fixed"] = "none"  # see networks/norms.py
    bn_momentum: Fraction = 0.1  # weight of the newest batch, as in torch
    spectral: bool = False  # spectral normalisation of every layer (Miyato et al. 2018), as in IGEBM
    activation: Literal["leaky_relu", "relu", "silu"] = "leaky_relu"
    mean: float = 0.5  # pixel normalisation (x - mean) / std; .5 and .5 map [0, 1] to [-1, 1]
    std: Positive = 0.5
    checkpoint: bool = False  # activations are computed again for gradients: less memory, more time, the same numbers

    def build(self, shape: tuple[int, int, int], outputs: int) -> "Classifier":
        widths = [16, 16 * self.width, 32 * self.width, 64 * self.width]
        stem = Stem(Normalise(self.mean, self.std), self.normalised(nn.Conv2d(shape[0], widths[0], 3, padding=1)))
        trunk = Recomputed() if self.checkpoint else nn.Sequential()
        for group in range(3):
            for block in range((self.depth - 4) // 6):
                inputs = widths[group] if block == 0 else widths[group + 1]
                trunk.append(Block(self, inputs, widths[group + 1], 2 if group and block == 0 else 1))
        trunk.extend([self.norm_layer(widths[3]), self.activation_layer(), nn.AdaptiveAvgPool2d(1), nn.Flatten()])
        return Classifier(self, shape, outputs, stem, trunk, self.normalised(Head(widths[3], outputs)))

    def normalised(self, layer: nn.Module) -> nn.Module:
        return nn.utils.parametrizations.spectral_norm(layer) if self.spectral else layer

    def norm_layer(self, channels: int) -> nn.Module:
        match self.norm:
            case "none":
                return nn.Identity()
            case "batch":
                return nn.BatchNorm2d(channels, momentum=self.bn_momentum)
            case "frozen" | "fixed":
                return FrozenBatchNorm2d(channels, trained=self.norm == "frozen")
            case "group":
                return nn.GroupNorm(min(8, channels), channels)

    def activation_layer(self) -> nn.Module:
        return ACTIVATIONS[self.activation]()


class Stem(nn.Sequential):
    """Pixel normalisation, then the first convolution."""

    affine = True  # so its Jacobian is constant: see samplers/proximal.py


class Normalise(nn.Module):
    def __init__(self, mean: float, std: float):
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Block(nn.Module):
    """Two 3x3 convolutions with pre-activation and a shortcut."""

    def __init__(self, spec: WideResNet, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.residual = nn.Sequential(
            spec.norm_layer(inputs),
            spec.activation_layer(),
            spec.normalised(nn.Conv2d(inputs, outputs, 3, padding=1)),
            spec.norm_layer(outputs),
            spec.activation_layer(),
            spec.normalised(nn.Conv2d(outputs, outputs, 3, stride, padding=1)),
        )
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else spec.normalised(nn.Conv2d(inputs, outputs, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.residual(x)


class Head(nn.Linear):
    """The last layer, in the precision of its weights: the 8 bits of bfloat16 are too few for differences of energies."""

    def forward(self, h: Tensor) -> Tensor:
        with torch.autocast(h.device.type, enabled=False):
            return super().forward(h.to(self.bias.dtype))


class Classifier(nn.Module):
    """Images (B, C, H, W) in [0, 1] -> logits (B, outputs): head(trunk(stem(x))); body is head after trunk.

    Spectral normalisation iterates in `renew` only, so that all passes of a training step use the same weights.
    """

    def __init__(
        self, spec: Any, shape: tuple[int, int, int], outputs: int, stem: Stem, trunk: nn.Sequential, head: nn.Module
    ):
        super().__init__()
        self.spec, self.shape, self.outputs = spec, tuple(shape), outputs
        self.stem, self.trunk, self.head = stem, trunk, head
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.train()

    def train(self, mode: bool = True) -> "Classifier":
        super().train(mode)
        for _, norm in self.spectral_norms():
            norm.eval()
        return self

    def spectral_norms(self) -> Iterator[tuple[nn.Module, nn.Module]]:
        """Each layer with spectral normalisation, and the normalisation."""
        layers = (layer for layer in self.modules() if nn.utils.parametrize.is_parametrized(layer, "weight"))
        return ((layer, layer.get_submodule("parametrizations.weight.0")) for layer in layers)

    @torch.no_grad()
    def renew(self) -> None:
        """One power iteration of each spectral normalisation (Miyato et al. 2018, Algorithm 1), once per training step."""
        for layer, norm in self.spectral_norms():
            norm.train()
            _ = layer.weight  # its computation iterates
            norm.eval()

    def features(self, x: Tensor) -> Tensor:
        """The pooled activations before the last layer, (B, D)."""
        return self.trunk(self.stem(x))

    def body(self, h: Tensor) -> Tensor:
        """Logits from the stem's output."""
        return self.head(self.trunk(h))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.stem(x))
