"""Normalising flows (normflows) as networks of one logit, log p(x), so that E(x) = -log p(x)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import log, pi
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from advebm.ranges import Count, Fraction
from advebm.samplers.streams import Streams

LOG_DET_TERMS = 6  # terms of the power series of a residual block's log determinant in evaluation


@dataclass(kw_only=True)
class Glow:
    """Glow (Kingma and Dhariwal 2018): `levels` times squeeze, `blocks` steps of flow, split."""

    kind: Literal["glow"]
    levels: Count = 3
    blocks: Count = 32
    hidden: Count = 512  # channels inside a coupling layer

    def build(self, shape: tuple[int, int, int], outputs: int) -> "Flow":
        from normflows.flows import GlowBlock

        return Flow(self, shape, outputs, lambda channels, *_: [GlowBlock(channels, self.hidden, use_lu=False)])


@dataclass(kw_only=True)
class ResidualFlow:
    """Residual flow (Chen et al. 2019): x + g(x), g Lipschitz; the log determinant in training is an unbiased estimate."""

    kind: Literal["residual_flow"]
    levels: Count = 3
    blocks: Count = 16
    hidden: Count = 512
    lipschitz: Fraction = 0.98  # constant of each layer of g

    def build(self, shape: tuple[int, int, int], outputs: int) -> "Flow":
        from normflows.flows import ActNorm
        from normflows.nets import LipschitzCNN

        def block(channels: int, height: int, width: int) -> list[nn.Module]:
            g = LipschitzCNN([channels, self.hidden, self.hidden, channels], [3, 1, 3], lipschitz_const=self.lipschitz)
            g(torch.zeros(1, channels, height, width))  # allocates the vectors of its power iteration
            return [residual_block(g), ActNorm((channels, 1, 1))]

        return Flow(self, shape, outputs, block)


def residual_block(g: nn.Module) -> nn.Module:
    """normflows' residual block, in evaluation deterministic and with a differentiable log determinant."""
    from normflows.flows import Residual

    class Block(Residual):
        def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
            """x from z = x + g(x), by fixed-point iteration; samples need no log determinant, so it is 0."""
            return self.iresblock.inverse(z), z.new_zeros(len(z))

        def inverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
            """z = x + g(x) and log |dz/dx|, in evaluation by LOG_DET_TERMS terms and one fixed probe for all images."""
            if self.training:
                return super().inverse(x)
            g, transposed = linearised(self.iresblock.nnet.net, x)
            v = probe = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(0)).to(x).expand_as(x)
            log_det = x.new_zeros(len(x))
            for k in range(1, LOG_DET_TERMS + 1):
                v = transposed(v)
                log_det = log_det + (-1) ** (k + 1) / k * (v * probe).flatten(1).sum(1)
            return x + g, log_det

    return Block(g)


def linearised(layers: nn.Sequential, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """g(x) and v -> J(x)^T v of a Lipschitz network in evaluation, J = dg/dx; its Swish is x sigmoid(beta x) / 1.1.

    The chain rule is written out because differentiating a series of autograd's gradients costs several times as much.
    """
    steps: list[tuple[Any, ...]] = []
    parts: list[Any] = list(layers)
    for swish, conv in zip(parts[::2], parts[1::2], strict=True):
        beta, weight = nn.functional.softplus(swish.beta), conv.compute_weight(update=False)
        gate = torch.sigmoid(beta * x)
        steps.append((gate * (1 + beta * x * (1 - gate)) / 1.1, weight, conv.padding))
        x = nn.functional.conv2d(x * gate / 1.1, weight, conv.bias, padding=conv.padding)

    def transposed(v: Tensor) -> Tensor:
        for slope, weight, padding in reversed(steps):
            v = slope * nn.functional.conv_transpose2d(v, weight, padding=padding)
        return v

    return x, transposed


@contextmanager
def estimates_from(seed: int, step: int) -> Iterator[None]:
    """In this block the estimates of log determinants are a function of (seed, step). They are drawn from the global
    generators of torch and NumPy, which are restored afterwards."""
    before = np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if torch.cuda.is_available() else []):
        torch.manual_seed(seed * 1_000_003 + step)
        np.random.seed((seed * 1_000_003 + step) % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(before)  # noqa: NPY002


class Flow(nn.Module):
    """Images (B, C, H, W) in [0, 1] -> log p(x) (B, 1), a density over [0, 1]^D."""

    def renew(self) -> None:
        """Power iteration of every Lipschitz layer, once per training step (Chen et al. 2019, as released)."""
        from normflows.utils import update_lipschitz

        update_lipschitz(self, 5)

    def __init__(
        self,
        spec: Glow | ResidualFlow,
        shape: Sequence[int],
        outputs: int,
        block: Callable[[int, int, int], list[nn.Module]],
    ):
        from normflows import MultiscaleFlow
        from normflows.flows import Merge, Squeeze

        super().__init__()
        channels, height, width = shape
        scale = 2**spec.levels
        if outputs != 1:
            raise ValueError(f"a network of kind {spec.kind} has one output, log p(x), not {outputs}")
        if height % scale or width % scale:
            raise ValueError(f"{spec.levels} levels need images whose sides are multiples of {scale}, not {height}x{width}")
        self.spec, self.shape, self.outputs = spec, tuple(shape), outputs
        levels, self.latents = [], []  # from the coarsest level on
        for coarser in range(spec.levels):
            factor = 2 ** (spec.levels - coarser)
            size = (2 * factor * channels, height // factor, width // factor)
            levels.append([layer for _ in range(spec.blocks) for layer in block(*size)] + [Squeeze()])
            self.latents.append(size if coarser == 0 else (size[0] // 2, *size[1:]))
        self.flow = MultiscaleFlow([nn.Identity()] * spec.levels, levels, [Merge() for _ in levels[1:]], class_cond=False)

    def forward(self, x: Tensor) -> Tensor:
        z, log_det = self.flow.inverse_and_log_det(x.contiguous() - 0.5)
        log_normal = [-0.5 * (v.square() + log(2 * pi)).flatten(1).sum(1) for v in z]
        return (sum(log_normal) + log_det)[:, None]

    @torch.no_grad()
    def draw(self, streams: Streams, temperature: float) -> Tensor:
        """Images (B, C, H, W) of z ~ N(0, temperature^2 I), one per stream."""
        z = [temperature * streams.normal(*size) for size in self.latents]
        return self.flow.forward_and_log_det(z)[0] + 0.5
