"""A network with smooth kinks: what an attack on the length of a gradient descends."""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.functional import leaky_relu, relu, softplus
from torch.overrides import TorchFunctionMode

from advebm.energy import Energy, Logits, steepness


class Smoothed(TorchFunctionMode):
    """In this context relu and leaky_relu, of slope a below 0, are a x + (1 - a) log(1 + exp(b x)) / b, which tends to them
    as the sharpness b grows (Dugas et al. 2001)."""

    def __init__(self, sharpness: float):
        super().__init__()
        self.sharpness = sharpness

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        bent: dict[Callable, Callable] = {relu: self.relu, leaky_relu: self.leaky_relu}
        return bent.get(func, func)(*args, **(kwargs or {}))

    def relu(self, x: Tensor, inplace: bool = False) -> Tensor:
        return softplus(x, self.sharpness)

    def leaky_relu(self, x: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
        return x.lerp(softplus(x, self.sharpness), 1 - negative_slope)


def sharpening(f: Logits, *, steps: int, first: float, last: float) -> Energy:
    """|dE(x)/dx| for one descent of that many steps: the sharpness of the network's kinks grows with every call, from
    `first` to `last`, by the same factor. At kinks proper |dE(x)/dx| jumps, and between them it hardly changes, so it has
    no useful gradient of its own."""
    growing = iter(np.geomspace(first, last, steps).tolist())

    def energy(x: Tensor) -> Tensor:
        with Smoothed(next(growing)):
            return steepness(f)(x)

    return energy
