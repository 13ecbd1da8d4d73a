"""The implementations that `advebm bench` compares, and the same work by each of them."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from advebm.networks.passes import convolving, has_bf16
from advebm.ranges import Precision

PLAIN: dict[str, Precision] = {"plain": "fp32", "default": "tf32"}  # plain implementations; the second has torch's defaults


class Job(NamedTuple):
    """The same work by several implementations, on this number of images. run(way, calm): `way` is plain, default, fast
    or eager (see `ways`); with `calm` there is no randomness, and the result is what is compared: for a chain or an
    attack, the displacement of its images."""

    name: str
    images: int
    run: Callable[[str, bool], Any]
    float32: bool = False  # in the package too, whatever precision training samples in


def ways(job: Job, device: torch.device, package: str = "fast") -> dict[str, Callable[[bool], Any]]:
    """A job's implementations by name: `plain` in float32; on a GPU `default`, the same with TF32 convolutions; `fast`,
    the package with training's precision, or in float32 if it generates or measures; package: `fast`, or `eager` without
    graphs."""
    precisions = PLAIN | ({"fast": "fp32"} if job.float32 else {})
    kinds = {"plain": "plain", "default": "default", "fast": package}
    found = {name: partial(job.run, kind) for name, kind in kinds.items() if name != "default" or has_tf32(device)}
    return {name: convolving(precisions[name])(way) if name in precisions else way for name, way in found.items()}


def effective(precision: str, device: torch.device) -> str:
    """The precision that passes really have on this machine."""
    if precision == "bf16" and has_bf16(device):
        return "bf16"
    return "tf32" if has_tf32(device) and precision != "fp32" else "fp32"


def has_tf32(device: torch.device) -> bool:
    """Whether float32 convolutions are TF32 by default."""
    return device.type == "cuda"


def distance(fast: Tensor, slow: Tensor) -> float:
    """|fast - slow| / |slow|."""
    return ((fast - slow).norm() / slow.norm()).item()
