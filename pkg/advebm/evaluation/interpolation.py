"""Interpolation between samples, by interpolating the starts of their generation."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor

from advebm.data.images import to_bytes
from advebm.energy import Logits
from advebm.evaluation.generation import Generator
from advebm.evaluation.result import Named
from advebm.evaluation.subject import Subject
from advebm.ranges import Count
from advebm.runtime.parts import BATCH, SEED, Part
from advebm.samplers.recipes import Recipe, Starts
from advebm.samplers.streams import Streams


@dataclass(kw_only=True)
class Interpolation:
    """Rows of images for each recipe, each from one sample to another of the same class."""

    rows: Count = 5
    columns: Annotated[int, Ge(2)] = 9

    def measure(self, subject: Subject, part: Part) -> "tuple[InterpolationResult, dict[str, np.ndarray | None]]":
        return interpolation(subject.generator, subject.recipes, self, seed=SEED, progress=subject.bar("interpolation"))


@dataclass(kw_only=True)
class Smoothness:
    smoothness: float | None  # None where the recipe has no start (flows)


@dataclass(kw_only=True)
class InterpolationResult(Named):
    """By recipe."""

    named: dict[str, Smoothness]


def between(f: Logits, recipe: Recipe, y: Tensor, starts: Starts, t: Tensor, one: Streams, other: Streams) -> Tensor:
    """Images (B, C, H, W) of classes y (B,) that the recipe generates from the starts (1 - t) a + t b, t (B,) in [0, 1]
    (Yin, Li and Rohde 2022, Section 5.2). The streams `one` give a and then the recipe's noise; `other` gives b. So the
    images at t = 0 are the recipe's samples, and those at t = 1 start from b."""
    name = recipe.start
    assert name is not None, "the recipe has no start"

    def start(y: Tensor, streams: Streams, *temperature: float) -> Tensor:
        a, b = (starts[name](y, own, *temperature) for own in (streams, other))
        return torch.lerp(a, b, t.to(a).view(-1, 1, 1, 1))

    return list(recipe(f, y, {name: start}, one).values())[-1]


def smoothness(x: Tensor) -> float:
    """The largest L2 distance between neighbouring columns of x (rows, columns, C, H, W), divided by that of the ends;
    median over rows. It is 1 / (columns - 1) for equal steps on a straight line, and 1 or more where a row jumps."""
    x = x.flatten(2).double()
    jumps = (x[:, 1:] - x[:, :-1]).norm(dim=2).amax(1)
    ends = (x[:, -1] - x[:, 0]).norm(dim=1)
    return float(np.median((jumps / ends.clamp_min(1e-12)).cpu().numpy()))


def interpolation(
    make: Generator,
    recipes: dict[str, Recipe],
    spec: Interpolation,
    *,
    seed: int,
    batch: int = BATCH,
    progress: Callable = iter,
) -> tuple[InterpolationResult, dict[str, np.ndarray | None]]:
    """The result and {recipe: uint8 (rows, columns, H, W, C)}, None where a recipe has no start (flows).

    Row i has class i mod K. Its first image is sample i of the command `sample` with the same seed; its last starts where
    sample i + K rows does, which has the same class. All images of a row share the random stream of sample i. On batch
    statistics, images also depend on the rest of their batch. Raises ValueError where images are not finite.
    """
    device, shape = next(make.net.parameters()).device, (spec.rows, spec.columns)
    row = torch.arange(spec.rows, device=device).repeat_interleave(spec.columns)
    t = torch.linspace(0, 1, spec.columns, device=device).repeat(spec.rows)
    found: dict[str, Smoothness] = {}
    pictures: dict[str, np.ndarray | None] = {}
    for name, recipe in recipes.items():
        found[name], pictures[name] = Smoothness(smoothness=None), None
        if recipe.start is None:
            continue
        parts = []
        with make.passes.sampling(make.net) as f:
            for ids, part in progress(list(zip(row.split(batch), t.split(batch), strict=True))):
                one, other = (Streams(seed, "sample", name, ids=i) for i in (ids, ids + make.classes * spec.rows))
                parts.append(between(f, recipe, ids % make.classes, make.starts, part, one, other))
        x = torch.cat(parts)
        if not x.isfinite().all():
            raise ValueError(f"interpolation by {name}: images are not finite; use smaller steps or less noise")
        found[name].smoothness = smoothness(x.clamp(0, 1).unflatten(0, shape))
        pixels = to_bytes(x)
        pictures[name] = pixels.reshape(*shape, *pixels.shape[1:])
    return InterpolationResult(named=found), pictures
