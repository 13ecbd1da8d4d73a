"""Wide residual networks (Zagoruyko and Komodakis 2016), as JEM and JEM++ use them."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from advebm.ranges import Count, Fraction, Positive


@dataclass(kw_only=True)
class WideResNet:
    """WRN-depth-width. JEM: norm none, leaky_relu; JEM++: norm batch with momentum .9, leaky_relu (slope .2)."""

    depth: Literal[10, 16, 22, 28, 34, 40] = 28  # 6 n + 4
    width: Count = 10
    norm: Literal["none", "batch", "group"] = "none"
    bn_momentum: Fraction = 0.1  # weight of the newest batch, torch's sense
    activation: Literal["leaky_relu", "silu"] = "leaky_relu"
    mean: float = 0.5  # pixel normalisation (x - mean) / std; .5 and .5 make [-1, 1] of [0, 1]
    std: Positive = 0.5

    def build(self, channels: int, outputs: int) -> "Network":
        """The network for images of so many channels, with so many logits."""
        return Network(self, channels, outputs).to(memory_format=torch.channels_last)

    def norm_layer(self, channels: int) -> nn.Module:
        match self.norm:
            case "none":
                return nn.Identity()
            case "batch":
                return nn.BatchNorm2d(channels, momentum=self.bn_momentum)
            case "group":
                return nn.GroupNorm(min(8, channels), channels)

    def activation_layer(self) -> nn.Module:
        return nn.SiLU() if self.activation == "silu" else nn.LeakyReLU(0.2)


class Stem(nn.Sequential):
    """Pixel normalisation, then the first convolution."""

    affine = True  # so an input gradient through it does not depend on the input: see samplers/proximal.py


class Normalise(nn.Module):
    def __init__(self, mean: float, std: float):
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Block(nn.Module):
    """Two 3x3 convolutions with pre-activation, and a shortcut."""

    def __init__(self, spec: WideResNet, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.residual = nn.Sequential(
            spec.norm_layer(inputs),
            spec.activation_layer(),
            nn.Conv2d(inputs, outputs, 3, padding=1),
            spec.norm_layer(outputs),
            spec.activation_layer(),
            nn.Conv2d(outputs, outputs, 3, stride, padding=1),
        )
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.residual(x)


class Network(nn.Module):
    """Images (B, C, H, W) in [0, 1] -> logits (B, outputs): head(trunk(stem(x))); body is head after trunk."""

    def __init__(self, spec: WideResNet, channels: int, outputs: int):
        super().__init__()
        self.spec, self.channels, self.outputs = spec, channels, outputs
        blocks = (spec.depth - 4) // 6
        widths = [16, 16 * spec.width, 32 * spec.width, 64 * spec.width]
        self.stem = Stem(Normalise(spec.mean, spec.std), nn.Conv2d(channels, widths[0], 3, padding=1))
        self.trunk = nn.Sequential()
        for group in range(3):
            for block in range(blocks):
                inputs = widths[group] if block == 0 else widths[group + 1]
                self.trunk.append(Block(spec, inputs, widths[group + 1], 2 if group and block == 0 else 1))
        self.trunk.extend([spec.norm_layer(widths[3]), spec.activation_layer(), nn.AdaptiveAvgPool2d(1), nn.Flatten()])
        self.head = nn.Linear(widths[3], outputs)

    def features(self, x: Tensor) -> Tensor:
        """The pooled activations before the last layer, (B, 64 width)."""
        return self.trunk(self.stem(x))

    def body(self, h: Tensor) -> Tensor:
        """Logits from the stem's output."""
        return self.head(self.trunk(h))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.stem(x))
