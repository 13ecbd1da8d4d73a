"""Applications of an energy: what is known of an image becomes part of the energy, which the sampler of a recipe descends.

    translation         E(x), from images z of another domain                         (Yin, Li and Rohde 2022)
    inpainting          E(m z + (1 - m) x), where pixels of z are known               (Du and Mordatch 2019)
    painting            E(m z + (1 - m) x, y), from x = z: a class in a region of z   (Santurkar et al. 2019, Section 3.5)
    super-resolution    E(x + U(z - D x)), D the means of blocks, U their repetition  (Santurkar et al. 2019)
    denoising           E(x) + weight |x - z|^2 / (2 std^2), where z = x + std N(0, I)
    composition         and: E_1 + E_2    or: -log(e^-E_1 + e^-E_2)    not: -weight E  (Du, Li and Mordatch 2020)
    interpolation       E(x), from (1 - t) a + t b with the same noise for all t

In inpainting, painting and super-resolution E is that of an image completed by what is known: its gradient is that of the
rest.
"""

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from advebm.energy import Energy, Logits, conditional, marginal, posterior
from advebm.samplers.pgd import Ascent, Attack
from advebm.samplers.recipes import SGLD, Ascend, CELangevin, Combined, Recipe, Targeted
from advebm.samplers.sgld import Langevin
from advebm.samplers.streams import Streams

Sampler = Langevin | Ascent | Attack
Completion = Callable[[Tensor], Tensor]  # images with their unknown parts as they are and their known parts put in


def known_pixels(z: Tensor, mask: Tensor) -> Completion:
    """Inpainting: the pixels of z where the mask (broadcasts to z) is True."""
    return lambda x: torch.where(mask, z, x)


def known_means(z: Tensor, factor: int) -> Completion:
    """Super-resolution: the images nearest to x whose means over blocks of factor x factor pixels are z."""
    return lambda x: x + enlarged(z - reduced(x, factor), factor)


def around(hole: float, height: int, width: int) -> Tensor:
    """The mask (height, width) of the pixels around a rectangle in the middle, whose sides are that part of the image's."""
    mask = torch.ones(height, width, dtype=torch.bool)
    top, left = (round(side * (1 - hole) / 2) for side in (height, width))
    mask[top : height - top, left : width - left] = False
    return mask


def reduced(x: Tensor, factor: int) -> Tensor:
    """D x: the means over blocks of factor x factor pixels."""
    return avg_pool2d(x, factor)


def enlarged(z: Tensor, factor: int) -> Tensor:
    """U z: each pixel repeated, so that D U z = z."""
    return interpolate(z, scale_factor=float(factor), mode="nearest")


def completed(energy: Energy, by: Completion) -> Energy:
    """The energy of the completed image. Its gradient is that of the unknown parts alone."""
    return lambda x: energy(by(x))


def seen(energy: Energy, z: Tensor, std: float, weight: float = 1.0) -> Energy:
    """Denoising: the energy of x where z = x + std N(0, I) was seen. Its minimum is the most likely x if weight is 1 and E
    is -log p; energies of networks are known up to a factor, the temperature of training: hence `weight`."""
    return lambda x: energy(x) + weight / (2 * std**2) * (x - z).square().sum((1, 2, 3))


def every(*energies: Energy) -> Energy:
    """And: the product of the densities."""
    return lambda x: torch.stack([energy(x) for energy in energies]).sum(0)


def either(*energies: Energy) -> Energy:
    """Or: the sum of the densities."""
    return lambda x: -torch.stack([-energy(x) for energy in energies]).logsumexp(0)


def without(energy: Energy, weight: float = 1.0) -> Energy:
    """Not: the density to the power -weight; to be used in `every`, beside an energy that it does not outweigh."""
    return lambda x: -weight * energy(x)


@dataclass(frozen=True, kw_only=True)
class Task:
    """An application to images: where they start, how they are completed, what is added to their energy, and whether that
    is of classes even where the recipe's is not."""

    start: Tensor
    completion: Completion = lambda x: x
    added: Callable[[Energy], Energy] = lambda energy: energy
    of_class: bool = False

    @property
    def begun(self) -> Tensor:
        """The images at the start, completed."""
        return self.completion(self.start)

    def solve(
        self, f: Logits, recipe: Recipe, y: Tensor | None, streams: Streams, *, steps: int | None = None, frames: int = 1
    ) -> list[Tensor]:
        """The images at the start and after each of `frames` parts of the recipe's steps, by the sampler and energy of the
        recipe. steps: their number instead of the recipe's. y (B,): the classes that a guided recipe descends towards, by
        default those that the network sees in the start."""
        sampler, of = parts(recipe, steps)
        of = class_energy(recipe) if self.of_class else of
        with torch.no_grad():
            y = f(self.begun).argmax(1) if y is None else y
        energy = self.added(completed(of(f, y), self.completion))
        return [self.completion(x).clamp(0, 1) for x in path(sampler, energy, self.begun, frames, streams)]


def translation(z: Tensor) -> Task:
    """From images z of another domain."""
    return Task(start=z)


def inpainting(z: Tensor, mask: Tensor) -> Task:
    """Of the pixels of z where the mask is True; the others start as the mean of these."""
    count = mask.expand_as(z).sum((2, 3), keepdim=True).clamp_min(1)
    mean = (z * mask).sum((2, 3), keepdim=True) / count
    return Task(start=mean.expand_as(z), completion=known_pixels(z, mask))


def painting(z: Tensor, region: Tensor) -> Task:
    """Of a class in the region of z where the mask is True. Santurkar et al. maximise an output of the network, less lambda
    times the distance from z outside; here z is held there, as with an infinite lambda."""
    return Task(start=z, completion=known_pixels(z, ~region), of_class=True)


def super_resolution(z: Tensor, factor: int) -> Task:
    """Of the means z over blocks of pixels; starts from their bicubic interpolation."""
    start = interpolate(z, scale_factor=float(factor), mode="bicubic", antialias=False).clamp(0, 1)
    return Task(start=start, completion=known_means(z, factor))


def denoising(z: Tensor, std: float, weight: float) -> Task:
    """Of images z with noise of deviation std."""
    return Task(start=z, added=lambda energy: seen(energy, z, std, weight))


def interpolation(a: Tensor, b: Tensor, t: Tensor) -> Task:
    """At t (B,) from 0, where images start from a, to 1, where they start from b."""
    return Task(start=torch.lerp(a, b, t.view(-1, 1, 1, 1)))


def folded(expression: str, of: Callable[[str], Any], every: Callable, either: Callable, without: Callable) -> Any:
    """The value of an expression such as "3 and not 8" where words have the values of(word); `and`, `or`, `not` are these
    functions. Raises ValueError for other expressions."""

    def value(node: ast.AST) -> Any:
        match node:
            case ast.BoolOp(op=ast.And(), values=values):
                return every(*map(value, values))
            case ast.BoolOp(op=ast.Or(), values=values):
                return either(*map(value, values))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return without(value(operand))
            case ast.Name(id=word):
                return of(word)
            case ast.Constant(value=int(number)):
                return of(str(number))
        raise mistake

    mistake = ValueError(f"{expression[:80]!r}: must consist of classes, and, or, not and brackets, such as '3 and not 8'")
    try:
        tree = ast.parse(expression[:1000].strip(), mode="eval").body
    except (SyntaxError, RecursionError, MemoryError):
        raise mistake from None
    return value(tree)


def composition(expression: str, of: Callable[[str], Energy], weight: float = 1.0) -> Energy:
    """The energy of an expression; `not` has the weight."""
    return folded(expression, of, every, either, lambda energy: without(energy, weight))


def held(expression: str, of: Callable[[str], Tensor]) -> Tensor:
    """For which images (N,) an expression holds; of: for which images a word does."""
    return folded(expression, of, lambda *p: torch.stack(p).all(0), lambda *p: torch.stack(p).any(0), torch.logical_not)


def words(expression: str) -> list[str]:
    """The words of an expression, in order."""
    return folded(expression, lambda word: [word], _joined, _joined, lambda found: found)


def wanted(expression: str) -> list[str]:
    """The words that an expression wants, not those under `not`: images of these classes are where it starts."""
    return folded(expression, lambda word: [word], _joined, _joined, lambda found: [])


def unknown(expression: str, classes: int) -> str | None:
    """The first word that is not the number of a class; None if there is none."""
    return next((word for word in words(expression) if not word.isdecimal() or int(word) >= classes), None)


def named(word: str) -> tuple[str, str]:
    """The name of the model and the number of the class of a word: "ink2" is ("ink", "2"), "3" is ("", "3")."""
    name = word.rstrip("0123456789")
    return name, word[len(name) :]


def _joined(*found: list[str]) -> list[str]:
    return list(dict.fromkeys(chain.from_iterable(found)))


def parts(recipe: Recipe, steps: int | None = None) -> tuple[Sampler, Callable[[Logits, Tensor], Energy]]:
    """The sampler of a recipe, without its start and what prepares it, and its energy of the network f and classes y.
    steps: their number instead of the recipe's. Raises ValueError for flows, which have no sampler, and for fewer than 0
    steps, or than 1 of an attack, whose step size is its radius over their number."""
    sampler, energy = _parts(recipe)
    least = 1 if isinstance(sampler, Attack) else 0
    if steps is not None and steps < least:
        raise ValueError(f"steps must be at least {least}, not {steps}")
    return sampler if steps is None else replace(sampler, steps=steps), energy


def _parts(recipe: Recipe) -> tuple[Sampler, Callable[[Logits, Tensor], Energy]]:
    match recipe:
        case SGLD(chain=langevin, conditional=of_class):
            return langevin, conditional if of_class else lambda f, y: marginal(f)
        case Combined(chain=langevin):
            return langevin, conditional
        case CELangevin(chain=langevin):
            return langevin, posterior
        case Targeted(attack=attack):
            return attack, posterior
        case Ascend(ascent=ascent, conditional=of_class):
            return ascent, conditional if of_class else lambda f, y: marginal(f)
    raise ValueError("the recipe draw has no chain to apply; take another recipe or method")


def class_energy(recipe: Recipe) -> Callable[[Logits, Tensor], Energy]:
    """The energy of classes by which a recipe generates: its own, or E(x, y) where that has no classes."""
    return parts(recipe)[1] if recipe.guided else conditional


def passed(
    sampler: Langevin | Ascent, lengths: Sequence[int], energy: Energy, x: Tensor, streams: Streams | None
) -> dict[int, Tensor]:
    """The images of the sampler after each of these numbers of its steps, which increase, and before the first."""
    images = {0: x}
    if isinstance(sampler, Langevin):
        after = enumerate(islice(sampler.each(energy, x, streams), lengths[-1]), 1)
        return images | {step: moved for step, moved in after if step in lengths}
    for before, length in pairwise((0, *lengths)):
        images[length] = replace(sampler, steps=length - before)(energy, images[before], streams)
    return images


def path(sampler: Sampler, energy: Energy, x: Tensor, frames: int, streams: Streams | None = None) -> list[Tensor]:
    """x, and the images after each of `frames` parts of the sampler's steps, the last those of sampler(energy, x, streams).
    Where the sampler stays in a ball around x, x and the last alone."""
    if isinstance(sampler, Attack) or (isinstance(sampler, Ascent) and sampler.eps is not None):
        return [x, sampler(energy, x, streams)]
    lengths = [sampler.steps * k // frames for k in range(frames + 1)]
    images = passed(sampler, lengths[1:], energy, x, streams)
    return [images[length] for length in lengths]
