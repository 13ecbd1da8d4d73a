"""Gradient checkpointing: memory for time, with the same gradients."""

from contextlib import ExitStack, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from advebm.networks.norms import repeated


class Recomputed(nn.Sequential):
    """Layers whose activations are not kept for the backward pass, which computes them again, one layer at a time (Chen et
    al. 2016). Only the input of each layer is kept. Batch norm sees a batch once."""

    def forward(self, h: Tensor) -> Tensor:
        for layer in self:
            if torch.is_grad_enabled():
                h = checkpoint(
                    layer,
                    h,
                    use_reentrant=False,
                    preserve_rng_state=False,  # the layers draw nothing
                    context_fn=partial(contexts, layer),
                )
            else:
                h = layer(h)
        return h


class Again(ExitStack):
    """Like `repeated`, but can be entered many times: a second derivative computes activations once more."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def __enter__(self) -> "Again":
        self.enter_context(repeated(self.layer))
        return self


def contexts(layer: nn.Module) -> tuple[nullcontext, Again]:
    """Those of the layer's pass and of its repetitions."""
    return nullcontext(), Again(layer)
