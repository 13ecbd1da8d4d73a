"""Recipes: how images are generated from a model. Each returns its intermediate images, in order."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Discriminator
from torch import Tensor

from advebm.energy import Logits, conditional, marginal, posterior
from advebm.ranges import Fraction, Positive, Start
from advebm.samplers.pgd import Ascent, Attack
from advebm.samplers.sgld import Langevin
from advebm.samplers.streams import Streams

# name: (classes (B,), streams) -> images (B, C, H, W); of a Gaussian also (classes, streams, temperature)
Starts = dict[str, Callable[..., Tensor]]
Stages = dict[str, Tensor]  # {name: images} for the recipe's `stages`; the last is the result


@dataclass(kw_only=True)
class SGLD:
    """Langevin dynamics on E(x), or on E(x, y) if `conditional`, as of JEM, JEM++ and "Robust JEM-Energy" (Zhu et al. 2021,
    Eq. 17). From the start `pca` and with momentum it is that of Mirza et al. 2024."""

    stages: ClassVar[tuple[str, ...]] = ("start", "langevin")
    recipe: Literal["sgld"]
    start: Start | Literal["pca"]
    temperature: Positive = 1.0  # of the start, see `begun`
    chain: Langevin
    conditional: bool = False

    def __post_init__(self) -> None:
        check_temperature(self)

    @property
    def guided(self) -> bool:
        """Whether the logits of classes guide it."""
        return self.conditional

    @property
    def asks(self) -> bool:
        """Whether images have a class, by the energy or by the Gaussian from which their chain starts."""
        return self.conditional or self.start in ("gaussians", "pca")

    def __call__(self, f: Logits, y: Tensor, starts: Starts, streams: Streams) -> Stages:
        x = begun(self, y, starts, streams)
        energy = conditional(f, y) if self.conditional else marginal(f)
        return {"start": x, "langevin": self.chain(energy, x, streams)}


@dataclass(kw_only=True)
class CELangevin:
    """Langevin dynamics on E(x, y) - E(x), the cross-entropy: the recipe of robust classifiers (Zhu et al. 2021,
    Eq. 4 and 16)."""

    asks: ClassVar[bool] = True
    guided: ClassVar[bool] = True
    stages: ClassVar[tuple[str, ...]] = ("start", "langevin")
    recipe: Literal["ce_langevin"]
    start: Start
    temperature: Positive = 1.0  # of the start, see `begun`
    chain: Langevin

    def __post_init__(self) -> None:
        check_temperature(self)

    def __call__(self, f: Logits, y: Tensor, starts: Starts, streams: Streams) -> Stages:
        x = begun(self, y, starts, streams)
        return {"start": x, "langevin": self.chain(posterior(f, y), x, streams)}


@dataclass(kw_only=True)
class Targeted:
    """Projected descent of the cross-entropy of the class, a targeted attack (Santurkar et al. 2019)."""

    asks: ClassVar[bool] = True
    guided: ClassVar[bool] = True
    stages: ClassVar[tuple[str, ...]] = ("start", "attack")
    recipe: Literal["targeted"]
    start: Start
    attack: Attack

    def __call__(self, f: Logits, y: Tensor, starts: Starts, streams: Streams) -> Stages:
        x = starts[self.start](y, streams)
        return {"start": x, "attack": self.attack(posterior(f, y), x, streams)}


@dataclass(kw_only=True)
class Combined:
    """The recipe of Robust JEM (Korst and Asadulaev 2022, Section 3): class Gaussian -> targeted attack -> lower contrast
    -> Langevin dynamics on E(x, y)."""

    asks: ClassVar[bool] = True
    guided: ClassVar[bool] = True
    start: ClassVar[Start] = "gaussians"
    stages: ClassVar[tuple[str, ...]] = ("class Gaussian", "after the attack", "lower contrast", "after Langevin")
    recipe: Literal["combined"]
    temperature: Positive = 1.0  # of the start, see `begun`
    attack: Attack
    contrast: Fraction  # factor of each image's difference from its own mean; not stated in the paper
    chain: Langevin

    def __call__(self, f: Logits, y: Tensor, starts: Starts, streams: Streams) -> Stages:
        gaussian = begun(self, y, starts, streams)
        attacked = self.attack(posterior(f, y), gaussian, streams)
        mean = attacked.mean((1, 2, 3), keepdim=True)
        prior = mean + self.contrast * (attacked - mean)
        x = self.chain(conditional(f, y), prior, streams)
        return {"class Gaussian": gaussian, "after the attack": attacked, "lower contrast": prior, "after Langevin": x}


@dataclass(kw_only=True)
class Ascend:
    """The recipe of AT-EBM: normalised ascent of f = -E from out-distribution images (Yin, Li and Rohde 2022), or if
    `conditional` of f(x)[y] = -E(x, y), the recipe of DAT (Yin et al. 2025)."""

    stages: ClassVar[tuple[str, ...]] = ("start", "ascent")
    recipe: Literal["ascent"]
    start: Start
    ascent: Ascent
    conditional: bool = False

    @property
    def guided(self) -> bool:
        """Whether the logits of classes guide it."""
        return self.conditional

    @property
    def asks(self) -> bool:
        """Whether images have a class, by the energy or by the Gaussian from which their ascent starts."""
        return self.conditional or self.start == "gaussians"

    def __call__(self, f: Logits, y: Tensor, starts: Starts, streams: Streams) -> Stages:
        x = starts[self.start](y, streams)
        energy = conditional(f, y) if self.conditional else marginal(f)
        return {"start": x, "ascent": self.ascent(energy, x, streams)}


@dataclass(kw_only=True)
class Draw:
    """Draws from a flow: z ~ N(0, temperature^2 I), mapped to images."""

    asks: ClassVar[bool] = False
    guided: ClassVar[bool] = False
    start: ClassVar[None] = None
    stages: ClassVar[tuple[str, ...]] = ("draw",)
    recipe: Literal["draw"]
    temperature: Positive = 1.0

    def __call__(self, f: Logits, y: Tensor, starts: Starts, streams: Streams) -> Stages:
        draw = getattr(f, "draw", None)
        if draw is None:
            raise ValueError("the recipe draw needs a flow (a network of kind glow or residual_flow)")
        return {"draw": draw(streams, self.temperature)}


def begun(recipe: SGLD | CELangevin | Combined, y: Tensor, starts: Starts, streams: Streams) -> Tensor:
    """The start of a recipe with a chain. Its `temperature` is the factor of the Gaussian's deviations, as of the recipe
    `draw` (Kingma and Dhariwal 2018): below 1, images are nearer to the mean image of their class, and to each other. The
    `contrast` of `combined` moves an image towards the mean of its own pixels instead, which is grey."""
    start = starts[recipe.start]
    return start(y, streams) if recipe.temperature == 1 else start(y, streams, recipe.temperature)


def check_temperature(recipe: SGLD | CELangevin) -> None:
    """Raises ValueError where the start has no deviations to scale."""
    if recipe.temperature != 1 and recipe.start not in ("gaussians", "pca"):
        raise ValueError(f"temperature: needs start gaussians or pca, whose deviations it scales, not {recipe.start}")


Recipe = Annotated[SGLD | CELangevin | Targeted | Combined | Ascend | Draw, Discriminator("recipe")]
