"""How generated images change with the number of steps of a recipe's chain: FID, label consistency, energy, saturation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from advebm.data.images import Images
from advebm.energy import Energy, Logits, marginal
from advebm.evaluation.features import FeatureNetwork, network
from advebm.evaluation.frechet import distance, fitted, jackknife
from advebm.evaluation.generation import Generator, batched, classes_of
from advebm.evaluation.quality import Quality, Reference, balanced, label_consistency
from advebm.evaluation.result import Result
from advebm.evaluation.subject import Surroundings
from advebm.networks.passes import Passes
from advebm.runtime import state
from advebm.runtime.parts import BATCH, Part, anew
from advebm.samplers.applications import parts, passed
from advebm.samplers.metropolis import adjustable, adjusted, shorter
from advebm.samplers.pgd import Ascent
from advebm.samplers.recipes import Recipe, Starts
from advebm.samplers.sgld import Langevin
from advebm.samplers.streams import Streams

TRIAL, SHORTEST = 20, 2.0**-20  # steps by which a step size is tried; factor of the smallest


def repeated(
    sampler: Langevin | Ascent, lengths: Sequence[int], energy: Energy, x: Tensor, streams: Streams
) -> dict[int, Tensor]:
    """The images after separate chains or ascents of each length, with the same noise, and before the first step."""
    return {length: replace(sampler, steps=length)(energy, x, streams.to(x.device)) for length in (0, *lengths)}


def continued(chain: Langevin, lengths: Sequence[int], energy: Energy, x: Tensor, streams: Streams) -> dict[int, Tensor]:
    """As `repeated`, and bit for bit, from one chain, as the noise continues in the same streams; noise that falls does so
    over each length."""
    if chain.noise_last is not None:
        return repeated(chain, lengths, energy, x, streams)
    return passed(replace(chain, steps=lengths[-1]), lengths, energy, x, streams)


# by the recipe's field with its last chain
KEEPERS: dict[str, Callable[..., dict[int, Tensor]]] = {"chain": continued, "ascent": repeated}


def last_chain(recipe: Recipe) -> str | None:
    """The recipe's field with its last chain; None where it has none."""
    return next((name for name in KEEPERS if hasattr(recipe, name)), None)


def snapshots(
    recipe: Recipe, f: Logits, y: Tensor, starts: Starts, streams: Streams, lengths: Sequence[int]
) -> dict[int, Tensor]:
    """{length: images (B, C, H, W)} that the recipe generates with a last chain of each length; lengths increase. Length 0
    is the start of that chain, which the recipe must have."""
    name = last_chain(recipe)
    assert name is not None, "the recipe has no chain"
    images: dict[int, Tensor] = {}

    def keep(energy: Energy, x: Tensor, streams: Streams) -> Tensor:
        images.update(KEEPERS[name](getattr(recipe, name), lengths, energy, x, streams))
        return images[lengths[-1]]

    changed: Any = {name: keep}
    replace(recipe, **changed)(f, y, starts, streams)
    return images


def drawn(
    curves: dict[str, tuple[str, Recipe]],
    lengths: list[int],
    n: int,
    make: Generator,
    *,
    part: Part = anew,
    bar: Callable[[str], Callable] = lambda name: iter,
) -> dict[str, dict[int, Images]]:
    """{curve: {length: n images}} for {curve: (name of its recipe, recipe)}, generated as by `sample`; length 0 is the
    start of the chain. Raises ValueError where an image is not finite."""

    def after(curve: str, ids: Tensor) -> dict[str, Tensor]:
        name, recipe = curves[curve]
        found = make(partial(snapshots, recipe, lengths=lengths), name, ids)
        for length, x in found.items():
            if not x.isfinite().all():
                raise ValueError(f"{curve}: images are not finite after {length} steps; use fewer or smaller steps")
        return {str(length): x for length, x in found.items()}

    sets = {}
    for curve, (_, recipe) in curves.items():
        found = batched(partial(after, curve), curve, n, part=part, progress=bar(curve))
        y = classes_of(recipe, n, make.classes)
        sets[curve] = {length: Images(found[str(length)], y) for length in (0, *lengths)}
    return sets


@dataclass(kw_only=True)
class Looks:
    """Numbers of images that need no reference."""

    label_consistency: float | None  # by the judge; None for images without classes
    energy: float  # mean of E(x), by the network that generated them
    saturated: float  # share of bytes that are 0 or 255


@dataclass(kw_only=True)
class Real:
    """Numbers of real images: as many of each split as are generated."""

    validation: Looks
    train: dict[str, float | None]  # fid, fid_se, and those of Looks


@dataclass(kw_only=True)
class Adjusted:
    """A chain after its last length, with Metropolis' adjustment."""

    taken: float  # share of the chain's steps that it takes
    factor: float  # of the step size at which it takes half, at the same temperature
    before: float  # mean of the energy that the chain descends
    after: float  # the same after as many adjusted steps of that size


@dataclass(kw_only=True)
class Curve:
    """Numbers of a recipe's images, one for each length of its chain. FID is against the validation images."""

    fid: list[float]
    fid_se: list[float]
    label_consistency: list[float | None]
    energy: list[float]
    saturated: list[float]
    best: int  # the length with the lowest FID
    reached: int | None = None  # the least length with a FID of at most the target; None if there is none
    adjusted: Adjusted | None = None  # None without noise


@dataclass(kw_only=True)
class StepsResult(Result):
    images: int  # by each recipe
    lengths: list[int]
    target: float | None = None  # a FID, of which the number of steps is asked
    recipes: dict[str, dict[str, Any]]  # parameters, by curve
    real: Real
    curves: dict[str, Curve]


def adjustment(make: Generator, name: str, recipe: Recipe, images: Images, length: int) -> Adjusted | None:
    """How far images at the end of a chain are from exp(-E / T) of the energy that it descends, see samplers/metropolis.py.
    None where there is no chain that can be adjusted."""
    chain, of = parts(recipe)
    if not isinstance(chain, Langevin) or not adjustable(chain):
        return None
    ids = torch.arange(min(len(images.x), BATCH), device=next(make.net.parameters()).device)
    x = images[: len(ids)].pixels(ids.device)
    with make.passes.sampling(make.net) as f:
        energy = of(f, ids % make.classes)

        def moved(factor: float, steps: int) -> tuple[Tensor, float]:
            own = replace(shorter(chain, factor), steps=steps)
            y, taken = adjusted(own, energy, x, Streams(make.seed, "metropolis", name, ids=ids))
            return y, float(taken.mean())

        factor = 1.0
        share = taken = moved(factor, TRIAL)[1]
        while share < 0.5 and factor > SHORTEST:
            factor /= 2
            share = moved(factor, TRIAL)[1]
        before, after = (float(energy(images).detach().mean()) for images in (x, moved(factor, length)[0]))
    return Adjusted(taken=taken, factor=factor, before=before, after=after)


def scores(images: Images, reference: Reference, using: FeatureNetwork, name: str) -> tuple[float, float]:
    """The Frechet distance of the images and its jackknife error; `name` labels the progress bar."""
    z = using.features(images.x, name)[using.layers[0]].to(using.device)
    return distance(fitted(z), reference.gaussian), jackknife(z, reference.gaussian)


def looks(net: nn.Module, judge: nn.Module, images: Images, passes: Passes) -> Looks:
    consistency = None if images.y is None else label_consistency(judge, images)
    saturated = float(np.isin(images.x, (0, 255)).mean())
    return Looks(label_consistency=consistency, energy=mean_energy(net, images, passes), saturated=saturated)


@torch.no_grad()
def mean_energy(net: nn.Module, images: Images, passes: Passes, batch: int = BATCH) -> float:
    """The mean of E(x) over the images, by passes like those of sampling."""
    device = next(net.parameters()).device
    with passes.sampling(net) as f:
        energy = marginal(f)
        parts = [energy(images[i : i + batch].pixels(device)).double().sum() for i in range(0, len(images.x), batch)]
    return sum(parts, start=torch.zeros((), dtype=torch.float64, device=device)).item() / len(images.x)


def best(fid: Sequence[float], lengths: Sequence[int]) -> int:
    """The length with the lowest FID."""
    return min(zip(fid, lengths, strict=True))[1]


def reached(fid: Sequence[float], lengths: Sequence[int], target: float | None) -> int | None:
    """The least length with a FID of at most the target; None if there is none."""
    return next((n for value, n in zip(fid, lengths, strict=True) if target is not None and value <= target), None)


def measured(
    sets: dict[str, dict[int, Images]],
    recipes: dict[str, Recipe],
    lengths: list[int],
    n: int,
    make: Generator,
    spec: Quality,
    around: Surroundings,
    *,
    target: float | None = None,
) -> tuple[Real, dict[str, Curve]]:
    """The numbers of n real images of each split, and those of each curve, whose recipe is that of the same name."""
    judge = around.load_judge()
    using = network(spec, judge, judge.shape[0], around.root, cache=state.features().part, bar=around.bar)
    validation, train = (balanced(around.images(split), n) for split in ("validation", "train"))
    reference = Reference(validation, using)

    def numbers(content: Images, name: str) -> dict[str, float | None]:
        fid, fid_se = scores(content, reference, using, name)
        return {"fid": fid, "fid_se": fid_se, **vars(looks(make.net, judge, content, make.passes))}

    real = Real(validation=looks(make.net, judge, validation, make.passes), train=numbers(train, "train"))
    curves = {}
    for curve, by_length in sets.items():
        found = [numbers(by_length[length], f"{curve} {length}") for length in lengths]
        columns: dict[str, Any] = {key: [number[key] for number in found] for key in found[0]}
        columns["adjusted"] = adjustment(make, curve, recipes[curve], by_length[lengths[-1]], lengths[-1])
        fid = columns["fid"]
        curves[curve] = Curve(**columns, best=best(fid, lengths), reached=reached(fid, lengths, target))
    return real, curves
