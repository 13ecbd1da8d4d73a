"""A trained model, to classify, detect, generate and attack. `advebm.load` and `advebm.Model` are public: docs/api.md."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from math import inf
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypedDict, Unpack

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from advebm import networks
from advebm.data.gaussians import Gaussians
from advebm.data.given import Given, Labels, WrongShape, labels, pixels
from advebm.energy import SCORES, Energy, conditional, marginal, negative, unsaturated
from advebm.evaluation.generation import Generator, check_guided
from advebm.networks.passes import Passes, View, convolving
from advebm.runtime import extras, hub
from advebm.runtime.parts import BATCH
from advebm.samplers import applications
from advebm.samplers.pgd import Attack
from advebm.samplers.recipes import Recipe, Starts
from advebm.samplers.streams import Streams

WRITTEN = ("classes", "detector", "threshold", "recipes", "precision", "study", "method")  # by `train`, with the weights
NAME = "gaussians.safetensors"


class How(TypedDict, total=False):
    """Options of the applications. recipe: as for `sample`; its chain, ascent or attack and its energy are used, not its
    start. steps: how many, instead of the recipe's. frames: if given, the result is (frames + 1, N, C, H, W): the start,
    and the images after each of so many parts of the steps. seed: of the noise."""

    recipe: str | Mapping[str, Any] | None
    steps: int | None
    frames: int | None
    seed: int


class Classes(NamedTuple):
    """y: the most probable class of each image, int64 (N,); p: the probabilities p(y | x), float32 (N, K)."""

    y: Tensor
    p: Tensor


def load(path: Path | str, *, gaussians: Path | str | None = None, device: torch.device | str | None = None) -> "Model":
    """The model of a model.safetensors, of the folder that `train` or `card` wrote, or of the Hugging Face Hub by its
    address, hf://OWNER/NAME or hf://OWNER/NAME@REVISION. gaussians: the file of the study's class Gaussians, by default
    gaussians.safetensors in the model's folder or beside that. device: by default the GPU, if any.

    Raises FileNotFoundError, ValueError for a file that is no model, ImportError where a package is missing that a flow or
    the Hub needs, and OSError where the Hub does not answer.
    """
    with extras.named():
        path = hub.folder(str(path)) if str(path).startswith("hf:") else Path(path)
        file = path / "model.safetensors" if path.is_dir() else path
        net, about = networks.load(file, networks.device() if device is None else device)
    if missing := [key for key in WRITTEN if key not in about]:
        raise ValueError(f"{file}: lacks {', '.join(missing)}: an earlier version of advebm wrote it; train it again")
    folders = Path(os.path.abspath(file)).parents[:2]  # not those of the cache, DVC's or the Hub's, to which it may link
    places = [folder / NAME for folder in folders] if gaussians is None else [Path(gaussians)]
    return Model(file, net, about, places)


@dataclass(eq=False)
class Model:
    """A trained model. Images are torch tensors, numpy arrays or PIL images, one or a list, of the model's `shape`: floats
    in [0, 1], or uint8. Results are tensors on the model's device."""

    file: Path
    net: networks.Network = field(repr=False)  # images (N, C, H, W) in [0, 1] to logits (N, K)
    about: Mapping[str, Any] = field(repr=False)  # what the model file says of itself
    places: list[Path] = field(repr=False)  # where the class Gaussians may be

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of its images."""
        channels, height, width = self.net.shape
        return channels, height, width

    @property
    def classes(self) -> int:
        """The number of classes of the images it was trained on."""
        return self.about["classes"]

    @property
    def classifies(self) -> bool:
        """Whether it has an output for each class: `classify`, `attack` and E(x, y) need them."""
        return self.net.outputs == self.classes

    @property
    def threshold(self) -> float:
        """95% of the validation images have at least this score."""
        return self.about["threshold"]

    @cached_property
    def recipes(self) -> dict[str, Recipe]:
        """The ways to generate images that the study had when the model was trained, the default first."""
        return _built(dict[str, Recipe], dict(self.about["recipes"]), "recipes")

    @cached_property
    def gaussians(self) -> Gaussians:
        """The class Gaussians, where some recipes start. Raises FileNotFoundError, or ValueError for another study's."""
        found = next((place for place in self.places if place.is_file()), None)
        if found is None:
            raise FileNotFoundError(
                f"{self.places[-1]}: no such file of class Gaussians; put it there, or name it in advebm.load"
            )
        return Gaussians.load(found, self.device, about={"classes": self.classes, "shape": [*self.shape]})

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters()).device

    def classify(self, x: Given) -> Classes:
        """The class of each image and the probabilities of all classes. Raises ValueError where the model has none."""
        self._check_classifier("classify")
        p = self._each(lambda part, ids: self.net(part).softmax(1), x)
        return Classes(p.argmax(1), p)

    def energy(self, x: Given, y: Labels | None = None) -> Tensor:
        """E(x), or E(x, y) of the classes y, (N,): low for likely images; -log p(x) of a flow."""
        if y is None:
            return self._each(lambda part, ids: marginal(self.net)(part), x)
        self._check_classifier("energy with y")
        x = pixels(x, self.shape)
        of = labels(y, self.classes, len(x)).to(self.device)
        return self._each(lambda part, ids: conditional(self.net, of[ids])(part), x)

    def score(self, x: Given) -> Tensor:
        """The score of each image (N,) by which the model detects: at least `threshold` is in-distribution. It is -E(x), or
        log max_y p(y | x) where the method was made for that."""
        return self._each(lambda part, ids: -SCORES[self.about["detector"]](self.net)(part).detach(), x)

    def sample(
        self,
        n: int,
        y: Labels | None = None,
        recipe: str | Mapping[str, Any] | None = None,
        *,
        seed: int = 0,
        start: Given | None = None,
    ) -> Tensor:
        """n images (n, C, H, W) in [0, 1] of the classes y, through which they cycle, by default all. recipe: a name of
        `recipes`, or one written as in params.yaml. start: images to start from instead of the recipe's own start."""
        if n < 1:
            raise ValueError(f"n must be at least 1, not {n}")
        name, how = self._recipe(recipe)
        check_guided(how, self.net, self.classes, name)
        if y is not None and not (how.guided if start is not None else how.asks):
            raise ValueError(f"the recipe {name} makes images of no chosen class: leave out y")
        of = None if y is None else labels(y, self.classes).to(self.device)
        passes, starts = Passes.on(self.device, self.about["precision"]), self._starts(name, how, start)
        drawn = Generator(net=self.net, starts=starts, classes=self.classes, passes=passes, y=of, seed=seed)
        with self._as_trained():
            ids = torch.arange(n, device=self.device)
            x = torch.cat([drawn(how, name, part)[how.stages[-1]].detach() for part in ids.split(BATCH)])
        return self._finite(x, name).clamp(0, 1)

    def attack(
        self,
        x: Given,
        y: Labels,
        *,
        eps: float,
        norm: Literal["linf", "l2"] = "linf",
        steps: int = 20,
        targeted: bool = False,
        seed: int = 0,
    ) -> Tensor:
        """Adversarial examples (N, C, H, W) within eps of x, by PGD with a random start: away from the classes y or, if
        targeted, towards them. eps is in the unit of images in [0, 1]."""
        self._check_classifier("attack")
        x = pixels(x, self.shape)
        pgd = _built(Attack, {"eps": eps, "norm": norm, "steps": steps}, "attack")
        of, passes = labels(y, self.classes, len(x)).to(self.device), Passes.on(self.device)

        def attacked(part: Tensor, ids: Tensor) -> Tensor:
            with torch.enable_grad(), passes.sampling(self.net) as f:
                energy = unsaturated(f, of[ids])
                return pgd(energy if targeted else negative(energy), part, Streams(seed, "attack", ids=ids))

        return self._each(attacked, x)

    def translate(self, x: Given, y: Labels | None = None, **how: Unpack[How]) -> Tensor:
        """Images (N, C, H, W) that a recipe's chain or ascent reaches from images x of another domain.

        y: the classes of the images, which guided recipes need, by default those that the model sees at the start. `how`
        has the options of all applications, see `How`."""
        return self._applied(lambda part: applications.translation(part["x"]), {"x": pixels(x, self.shape)}, y, **how)

    def inpaint(self, x: Given, known: Any, y: Labels | None = None, **how: Unpack[How]) -> Tensor:
        """Images with the pixels of x where `known` is True, (H, W) or (N, H, W), and others by the model."""
        x = pixels(x, self.shape)
        given = {"x": x, "known": _mask(known, x, "known must be bool {}, True where a pixel is known")}
        return self._applied(lambda part: applications.inpainting(part["x"], part["known"]), given, y, **how)

    def paint(self, x: Given, region: Any, y: Labels, **how: Unpack[How]) -> Tensor:
        """Images x with the classes y painted where `region` is True, (H, W) or (N, H, W); the other pixels stay as they
        are. A recipe without classes paints by E(x, y)."""
        self._check_classifier("paint")
        x = pixels(x, self.shape)
        given = {"x": x, "region": _mask(region, x, "region must be bool {}, True where a pixel is painted")}
        return self._applied(lambda part: applications.painting(part["x"], part["region"]), given, y, **how)

    def denoise(self, x: Given, std: float, y: Labels | None = None, *, weight: float = 0.01, **how: Unpack[How]) -> Tensor:
        """Images without the noise of deviation std that x has. weight: how much x counts beside the energy, see
        `samplers.applications.seen`; 0 starts from x and forgets it."""
        if not (0 < std < inf and 0 <= weight < inf):
            raise ValueError(f"std must be positive and weight at least 0, not {std} and {weight}")
        given = {"x": pixels(x, self.shape)}
        return self._applied(lambda part: applications.denoising(part["x"], std, weight), given, y, **how)

    def restore(self, x: Given, y: Labels | None = None, **how: Unpack[How]) -> Tensor:
        """Super-resolution: images whose means over blocks of pixels are x, (N, C, H / k, W / k) for an integer k."""
        channels, height, width = self.shape
        sizes = {k: (channels, height // k, width // k) for k in range(2, height + 1) if height % k == width % k == 0}
        given: dict[int, Tensor] = {}
        for k, shape in sizes.items():
            with suppress(WrongShape):
                given.setdefault(k, pixels(x, shape))
        if not given:
            small = " or ".join(str([*shape]) for shape in sizes.values())
            raise ValueError(f"images must be smaller than the model's {[*self.shape]} by an integer: {small}")
        (k, small_x), *_ = given.items()
        return self._applied(lambda part: applications.super_resolution(part["x"], k), {"x": small_x}, y, **how)

    def interpolate(self, a: Given, b: Given, columns: int = 9, y: Labels | None = None, **how: Unpack[How]) -> Tensor:
        """(N, columns, C, H, W): from each image of a to that of b, by starts between them; y: of the rows."""
        a, b = pixels(a, self.shape), pixels(b, self.shape)
        if len(a) != len(b) or columns < 2:
            raise ValueError(
                f"there must be as many images of both, and columns at least 2, not {len(a)}, {len(b)}, {columns}"
            )
        t = torch.linspace(0, 1, columns).repeat(len(a))
        given = {"a": a.repeat_interleave(columns, 0), "b": b.to(a.device).repeat_interleave(columns, 0), "t": t}
        rows = torch.arange(len(a)).repeat_interleave(columns)
        of = None if y is None else labels(y, self.classes, len(a))[rows]
        made = self._applied(
            lambda part: applications.interpolation(part["a"], part["b"], part["t"]), given, of, rows, **how
        )
        return made.unflatten(0, (len(a), columns))

    def compose(
        self,
        expression: str,
        n: int,
        recipe: str | Mapping[str, Any] | None = None,
        *,
        others: Mapping[str, "Model"] = MappingProxyType({}),
        weight: float = 0.1,
        steps: int | None = None,
        seed: int = 0,
    ) -> Tensor:
        """n images (n, C, H, W) for an expression over classes such as "3 and not 8" (Du, Li and Mordatch 2020). others:
        models of such images: "3 and ink2" is class 3 of this one, by the energy of the recipe, and class 2 of
        others["ink"], by that of its first recipe. weight: of `not`. Images start from the class Gaussians of the classes
        of this model that the expression wants."""
        self._check_classifier("compose")
        name, how = self._recipe(recipe)
        sampler, _ = applications.parts(how, steps)
        if n < 1 or not 0 <= weight < inf:
            raise ValueError(f"n must be at least 1 and weight at least 0, not {n} and {weight}")
        terms = {word: self._term(word, others) for word in applications.words(expression)}
        first = [k for word in applications.wanted(expression) for model, k in [terms[word]] if model is self]
        start = torch.tensor(first or range(self.classes), device=self.device)
        made = []
        passes = Passes(self.about["precision"])  # no graphs: energies of several words pass before any goes backward
        with ExitStack() as stack:
            views: dict[Model, View] = {}
            for model in dict.fromkeys(model for model, _ in terms.values()):
                stack.enter_context(model._as_trained())
                views[model] = stack.enter_context(passes.sampling(model.net))
            for ids in torch.arange(n, device=self.device).split(BATCH):

                def energy(word: str, ids: Tensor = ids) -> Energy:
                    model, k = terms[word]
                    of = applications.class_energy(how if model is self else model._recipe(None)[1])
                    return of(views[model], torch.full_like(ids, k))

                streams = Streams(seed, "compose", expression, name, ids=ids)
                x = self.gaussians.sample(start[ids % len(start)], streams)
                made.append(sampler(applications.composition(expression, energy, weight), x, streams).detach())
        return self._finite(torch.cat(made), name).clamp(0, 1)

    def _term(self, word: str, others: Mapping[str, "Model"]) -> tuple["Model", int]:
        """The model and the class of a word of an expression."""
        name, number = applications.named(word)
        model = self if name == "" else others.get(name)
        if model is None or not number:
            known = ", ".join(f"{other}0" for other in others)
            raise ValueError(
                f"{word!r} is no class; there are 0 to {self.classes - 1}{f' and {known}, ...' if known else ''}"
            )
        if model.shape != self.shape:
            raise ValueError(f"{model.file}: is for images {[*model.shape]}, {self.file} for {[*self.shape]}")
        model._check_classifier("compose")
        if int(number) >= model.classes:
            raise ValueError(f"{word!r} is no class; {model.file} has 0 to {model.classes - 1}")
        return model, int(number)

    def _applied(
        self,
        task: Callable[[dict[str, Tensor]], applications.Task],
        given: dict[str, Tensor],
        y: Labels | None,
        ids: Tensor | None = None,
        *,
        recipe: str | Mapping[str, Any] | None = None,
        steps: int | None = None,
        frames: int | None = None,
        seed: int = 0,
    ) -> Tensor:
        """The images of the task of each batch of what is given, by the recipe."""
        name, how = self._recipe(recipe)
        check_guided(how, self.net, self.classes, name)
        if frames is not None and frames < 1:
            raise ValueError(f"frames must be at least 1, not {frames}")
        count = len(next(iter(given.values())))
        of = None if y is None else labels(y, self.classes, count).to(self.device)
        passes, made = Passes.on(self.device, self.about["precision"]), []
        numbers = torch.arange(count) if ids is None else ids
        with self._as_trained(), passes.sampling(self.net) as f:
            for part in torch.arange(count).split(BATCH):
                streams = Streams(seed, "apply", name, ids=numbers[part].to(self.device))
                posed = task({key: value[part.to(value.device)].to(self.device) for key, value in given.items()})
                found = posed.solve(
                    f, how, None if of is None else of[part.to(of.device)], streams, steps=steps, frames=frames or 1
                )
                made.append(torch.stack(found).detach())
        path = self._finite(torch.cat(made, 1), name)
        return path[-1] if frames is None else path

    @staticmethod
    def _finite(x: Tensor, name: str) -> Tensor:
        if not x.isfinite().all():
            raise ValueError(f"the recipe {name} left the finite numbers; take smaller steps or noise")
        return x

    @torch.no_grad()
    def _each(self, of: Callable[[Tensor, Tensor], Tensor], x: Given) -> Tensor:
        """of(images, their numbers) of all images x, batch by batch."""
        given = pixels(x, self.shape)
        ids = torch.arange(len(given), device=self.device)
        with convolving("fp32"):
            return torch.cat([of(given[part.to(given.device)].to(self.device), part) for part in ids.split(BATCH)])

    @contextmanager
    def _as_trained(self) -> Iterator[None]:
        """In this block a network whose chains were trained on batch statistics uses them."""
        self.net.train(self.about.get("statistics") == "batch")
        try:
            yield
        finally:
            self.net.eval()

    def _check_classifier(self, what: str) -> None:
        if not self.classifies:
            raise ValueError(f"{self.file}: {what} needs classes, but a model of {self.about['method']} has E(x) alone")

    def _recipe(self, recipe: str | Mapping[str, Any] | None) -> tuple[str, Recipe]:
        if isinstance(recipe, Mapping):
            return "recipe", _built(Recipe, recipe, "recipe")
        name = next(iter(self.recipes), "") if recipe is None else recipe
        if name not in self.recipes:
            there = f"no recipe {name}; there are {', '.join(self.recipes)}" if self.recipes else "has no recipe of its own"
            raise ValueError(f"{self.file}: {there}; in Python also one as in params.yaml, {{'recipe': 'sgld', ...}}")
        return name, self.recipes[name]

    def _starts(self, name: str, recipe: Recipe, start: Given | None) -> Starts:
        if start is not None:
            if recipe.start is None:
                raise ValueError(f"the recipe {name} starts from no images: leave out start")
            images = pixels(start, self.shape).to(self.device)
            return dict.fromkeys(("gaussians", "pca", "uniform", "outliers"), lambda y, s, *_: images[s.ids % len(images)])
        if recipe.start == "outliers":
            raise ValueError(f"the recipe {name} starts from out-distribution images: give some as start")
        leading = cache(lambda: self.gaussians.leading())
        return {
            "uniform": lambda y, streams: streams.uniform(*self.shape),
            "gaussians": lambda y, streams, *temperature: self.gaussians.sample(y, streams, *temperature),
            "pca": lambda y, streams, *temperature: leading().sample(y, streams, *temperature),
        }


def _mask(given: Any, x: Tensor, must: str) -> Tensor:
    """The mask (N, 1, H, W) of images x. Raises ValueError that says what it must be, with its shapes put in."""
    mask = torch.as_tensor(np.asarray(given) if not isinstance(given, Tensor) else given)
    if mask.dtype != torch.bool or mask.shape not in (x.shape[2:], (len(x), *x.shape[2:])):
        shapes = f"{[*x.shape[2:]]} or {[len(x), *x.shape[2:]]}"
        raise ValueError(f"{must.format(shapes)}, not {mask.dtype} {[*mask.shape]}")
    return mask.expand(len(x), *x.shape[2:])[:, None]


def _built(kind: Any, entry: Any, where: str) -> Any:
    """An instance of a dataclass from its fields. Raises ValueError with the first mistake, in a line."""
    try:
        return TypeAdapter(kind).validate_python(entry)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([where, *map(str, first["loc"])])
        raise ValueError(f"{place}: {first['msg'].removeprefix('Value error, ')}") from None
