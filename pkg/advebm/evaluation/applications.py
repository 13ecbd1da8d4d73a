"""Applications of the energy: restoring what is missing or noisy in test images, against plain ways; painting another class
into them; translation from another domain; composition of classes."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from typing import Annotated, NamedTuple

import numpy as np
import torch
from annotated_types import Len
from torch import Tensor

from advebm.data.gaussians import Gaussians
from advebm.data.images import to_bytes, to_pixels
from advebm.evaluation import features, intervals
from advebm.evaluation.features import FeatureNetwork
from advebm.evaluation.frechet import distance, fitted
from advebm.evaluation.neighbours import ssim
from advebm.evaluation.quality import balanced
from advebm.evaluation.result import Interval, Result
from advebm.evaluation.subject import Subject
from advebm.ranges import LEAST, Count, Fraction, NonNegative, Positive, Several
from advebm.runtime import state
from advebm.runtime.parts import SEED, Part
from advebm.samplers import applications as a
from advebm.samplers.recipes import Recipe
from advebm.samplers.streams import Streams

STRIP = 10  # images of a task that the picture shows


@dataclass(kw_only=True)
class Applications(features.Features):
    """The first recipe that has a chain or ascent, applied to test images. Of its steps and weights, and of those of plain
    ways, the ones with the highest PSNR on validation images are taken."""

    n: Several = 100  # images of each task
    hole: Fraction = 0.5  # side of the square that is missing or painted, of the image's
    std: Positive = 0.2  # of the noise, images in [0, 1]
    factor: Several = 2  # of super-resolution
    steps: Annotated[list[Count], Len(1)] = field(default_factory=lambda: [5, 10, 20, 40])
    weights: Annotated[list[NonNegative], Len(1)] = field(default_factory=lambda: [0.003, 0.01, 0.03, 0.1])
    smoothing: Annotated[list[Positive], Len(1)] = field(default_factory=lambda: [0.03, 0.06, 0.1, 0.15])  # total variation
    reach: Count = 4  # times the recipe's steps are the steps of translation and painting
    frames: Count = 8  # in which its FID is measured
    compositions: list[str] = field(default_factory=lambda: ["0 or 1", "1 and not 0"])
    negation: Positive = 0.1  # weight of `not`

    def measure(self, subject: Subject, part: Part) -> "tuple[ApplicationsResult, Shown]":
        return Measuring(self, subject, part).all()


@dataclass(kw_only=True)
class Restored:
    """How near restored images are to the test images; means over images."""

    psnr: float  # dB
    psnr_ci: Interval
    ssim: float  # structural similarity
    features: float  # distance of features, over the length of those of the test image
    chosen: dict[str, float]  # on validation images


@dataclass(kw_only=True)
class Painted:
    """The next class, (y + 1) mod K, painted into the middle of test images of class y, as the judge sees them."""

    held: float  # for which share of the images it sees that class
    held_ci: Interval
    before: float  # the same of the test images
    pasted: float  # and with the middle of a draw of that class's Gaussian
    moved: float  # mean L2 distance from the test images, which is that in the middle
    outside: float  # the largest change of a pixel outside
    n: int


@dataclass(kw_only=True)
class Translated:
    """Images of another domain on their way; a value for each frame."""

    source: str  # the out-distribution set
    steps: list[int]
    fid: list[float]  # to training images
    moved: list[float]  # mean L2 distance from the source, images in [0, 1]
    n: int


@dataclass(kw_only=True)
class Composed:
    """Images generated for an expression over classes, as the judge sees them."""

    held: float  # for which share of the images it holds
    held_ci: Interval
    shares: dict[str, float]  # of the images that are of each of its classes
    n: int


@dataclass(kw_only=True)
class ApplicationsResult(Result):
    """By task and way. The recipe is None, and its way absent, where the method has none with a chain or ascent."""

    recipe: str | None
    n: int
    tasks: dict[str, dict[str, Restored]]
    painting: Painted | None  # None without classes
    translation: Translated | None
    composition: dict[str, Composed]


class Shown(NamedTuple):
    """What the picture is drawn from: uint8 (N, H, W, C) of each row of each block."""

    blocks: dict[str, dict[str, np.ndarray]]


# what distinguishes the candidates of a way, one of which is chosen, and images of z
Candidates = list[tuple[dict[str, float], Callable[[Tensor], Tensor]]]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """z = observe(x) + std N(0, I), observe linear; x is wanted."""

    observe: Callable[[Tensor], Tensor]
    std: float = 0.0
    task: Callable[[Tensor, float], a.Task]  # of z and the weight
    plain: dict[str, Candidates]

    def seen(self, x: Tensor, split: str) -> Tensor:
        z = self.observe(x)
        if self.std == 0:
            return z
        return z + self.std * Streams(SEED, "noise", split, ids=torch.arange(len(x), device=x.device)).normal(*z.shape[1:])


def problems(spec: Applications, shape: tuple[int, ...]) -> dict[str, Problem]:
    """The tasks whose images are known, by name. Super-resolution needs sides that the factor divides."""
    _, height, width = shape
    mask = a.around(spec.hole, height, width)
    found = {
        "inpainting": Problem(
            observe=lambda x: x * mask.to(x.device),
            task=lambda z, weight: a.inpainting(z, mask.to(z.device)),
            plain={
                "mean": [({}, lambda z: a.inpainting(z, mask.to(z.device)).begun)],
                "biharmonic": [({}, partial(biharmonic, mask=mask))],
            },
        ),
        "denoising": Problem(
            observe=lambda x: x,
            std=spec.std,
            task=lambda z, weight: a.denoising(z, spec.std, weight),
            plain={
                "as seen": [({}, lambda z: z)],
                "total variation": [({"weight": w}, partial(total_variation, weight=w)) for w in spec.smoothing],
            },
        ),
    }
    if height % spec.factor or width % spec.factor:
        return found
    task = partial(a.super_resolution, factor=spec.factor)
    return found | {
        "super-resolution": Problem(
            observe=lambda x: a.reduced(x, spec.factor),
            task=lambda z, weight: task(z),
            plain={
                "nearest": [({}, lambda z: a.enlarged(z, spec.factor))],
                "bicubic": [({}, lambda z: task(z).start)],
            },
        )
    }


def total_variation(z: Tensor, weight: float) -> Tensor:
    """Images of less total variation (Chambolle 2004), by scikit-image."""
    from skimage.restoration import denoise_tv_chambolle

    images = [denoise_tv_chambolle(image, weight=weight, channel_axis=0) for image in z.double().cpu().numpy()]
    return torch.from_numpy(np.stack(images)).to(z)


def biharmonic(z: Tensor, mask: Tensor) -> Tensor:
    """Pixels where the mask is False, as a smooth continuation of the others (Damelin and Hoang 2018), by scikit-image."""
    from skimage.restoration import inpaint_biharmonic

    images = [inpaint_biharmonic(i, ~mask.numpy(), channel_axis=0) for i in z.double().cpu().numpy()]
    return torch.from_numpy(np.stack(images)).to(z)


def expected(gaussians: Gaussians, problem: Problem, z: Tensor) -> Tensor:
    """E[x | z] where x is of the class Gaussians, all classes equally likely: the best by means and covariances alone.

    For one Gaussian N(m, C) and z = H x + std N(0, I) it is m + C H' S^-1 (z - H m), S = H C H' + std^2 I, and
    log p(z) = -(z - H m)' S^-1 (z - H m) / 2 - log det S / 2 weighs the classes.
    """
    mean, factor = gaussians.mean.double(), gaussians.factor.double()
    D = mean.shape[1]
    unit = torch.eye(D, dtype=torch.float64, device=mean.device).view(D, *gaussians.shape)
    H = problem.observe(unit).flatten(1).T
    rows = H.abs().sum(1) > 0  # what is seen
    H, seen = H[rows], z.double().flatten(1)[:, rows]
    of_class, likely = [], []
    for m, f in zip(mean, factor, strict=True):
        G = H @ f
        S = torch.linalg.cholesky(G @ G.T + (problem.std**2 + 1e-9) * torch.eye(len(H), dtype=H.dtype, device=H.device))
        r = (seen - m @ H.T).T
        u = torch.cholesky_solve(r, S)
        of_class.append(m + (f @ (G.T @ u)).T)
        likely.append(-(r * u).sum(0) / 2 - S.diagonal().log().sum())
    p = torch.stack(likely).softmax(0)
    return (p[:, :, None] * torch.stack(of_class)).sum(0).float().view(-1, *gaussians.shape)


def psnr(x: Tensor, reference: Tensor) -> Tensor:
    """Peak signal to noise ratio in dB of each image in [0, 1], (N,), at most 100."""
    return -10 * (x - reference).square().mean((1, 2, 3)).clamp_min(1e-10).log10()


class Measuring:
    """The measurement of one subject."""

    def __init__(self, spec: Applications, subject: Subject, part: Part):
        self.spec, self.subject, self.part = spec, subject, part
        self.judge = subject.load_judge()
        self.make = subject.generator
        self.device = next(self.make.net.parameters()).device
        self.using: FeatureNetwork = features.network(
            spec, self.judge, self.judge.shape[0], subject.root, cache=state.features().part
        )
        self.gaussians = Gaussians.load(subject.gaussians, self.device, about=subject.about)
        usable = {name: recipe for name, recipe in subject.recipes.items() if recipe.recipe != "draw"}
        self.name: str | None = next(iter(usable), None)
        self.recipe: Recipe | None = usable.get(self.name) if self.name else None
        self.images = {split: balanced(subject.images(split), spec.n) for split in ("validation", "test")}
        self.x = {split: images.pixels(self.device) for split, images in self.images.items()}

    def all(self) -> tuple[ApplicationsResult, Shown]:
        tasks: dict[str, dict[str, Restored]] = {}
        blocks: dict[str, dict[str, np.ndarray]] = {}
        posed = problems(self.spec, self.make.net.shape)
        for name in self.subject.bar("applications")(list(posed)):
            tasks[name], blocks[name] = self.restored(name, posed[name])
        painting, translation, composition = None, None, {}
        if self.recipe is not None and self.name is not None:
            translation, blocks["translation"] = self.translated(self.recipe)
            if 1 < self.make.net.outputs == self.subject.about["classes"]:
                painting, blocks["painting"] = self.painted(self.recipe)
                for expression in self.spec.compositions:
                    composition[expression], x = self.composed(expression, self.recipe)
                    blocks.setdefault("composition", {})[expression] = x
        found = ApplicationsResult(
            recipe=self.name,
            n=len(self.x["test"]),
            tasks=tasks,
            painting=painting,
            translation=translation,
            composition=composition,
        )
        return found, Shown(blocks)

    def solved(
        self, task: a.Task, recipe: Recipe, key: str, steps: int, *, y: Tensor | None = None, frames: int = 1
    ) -> list[Tensor]:
        """The images of the task, by the recipe."""
        streams = Streams(SEED, "applications", key, ids=torch.arange(len(task.start), device=self.device))
        with self.make.passes.sampling(self.make.net) as f:
            return [x.detach() for x in task.solve(f, recipe, y, streams, steps=steps, frames=frames)]

    def ways(self, name: str, problem: Problem) -> dict[str, Candidates]:
        gaussian = partial(expected, self.gaussians, problem)
        found: dict[str, Candidates] = problem.plain | {"class Gaussians": [({}, gaussian)]}
        recipe, own = self.recipe, self.name
        if recipe is None or own is None:
            return found

        def of(steps: int, weight: float) -> Callable[[Tensor], Tensor]:
            return lambda z: self.solved(problem.task(z, weight), recipe, name, steps)[-1]

        if problem.std:
            pairs = product(self.spec.steps, self.spec.weights)
            return found | {own: [({"steps": steps, "weight": w}, of(steps, w)) for steps, w in pairs]}
        return found | {own: [({"steps": steps}, of(steps, 0.0)) for steps in self.spec.steps]}

    def restored(self, name: str, problem: Problem) -> tuple[dict[str, Restored], dict[str, np.ndarray]]:
        """The scores and the first images of each way."""
        seen = {split: problem.seen(x, split) for split, x in self.x.items()}
        x = self.x["test"]
        of_test = self.features(x)
        shown = {"seen": to_bytes(a.enlarged(seen["test"], x.shape[-1] // seen["test"].shape[-1])[:STRIP])}
        scores: dict[str, Restored] = {}

        def made(candidates: Candidates) -> dict[str, Tensor]:
            best = torch.tensor(0)
            if len(candidates) > 1:
                found = [of(seen["validation"]).clamp(0, 1) for _, of in candidates]
                best = torch.stack([psnr(y, self.x["validation"]).mean() for y in found]).argmax().cpu()
            return {"best": best, "x": candidates[int(best)][1](seen["test"]).clamp(0, 1).cpu()}

        for way, candidates in self.ways(name, problem).items():
            kept = self.part(f"{name} by {way}", partial(made, candidates))
            y = kept["x"].to(self.device)
            near = psnr(y, x).double().cpu().numpy()
            scores[way] = Restored(
                psnr=float(near.mean()),
                psnr_ci=intervals.mean(near),
                ssim=float(ssim(y.double(), x.double()).mean()),
                features=float((self.features(y) - of_test).norm(dim=1).mean() / of_test.norm(dim=1).mean()),
                chosen=candidates[int(kept["best"])][0],
            )
            shown[way] = to_bytes(y[:STRIP])
        return scores, shown | {"test image": to_bytes(x[:STRIP])}

    def features(self, x: Tensor) -> Tensor:
        """(N, D) of images, rounded to 8 bits."""
        return self.using.features(to_bytes(x), "applications")[self.using.layers[0]].double()

    def painted(self, recipe: Recipe) -> tuple[Painted, dict[str, np.ndarray]]:
        """The next class in the middle of test images."""
        z = self.x["test"]
        y = (self.images["test"].labels(self.device) + 1) % self.subject.about["classes"]
        task = a.painting(z, ~a.around(self.spec.hole, *z.shape[2:]).to(self.device))
        steps = self.spec.reach * a.parts(recipe)[0].steps
        streams = Streams(SEED, "pasted", ids=torch.arange(len(z), device=self.device))
        pasted = task.completion(self.gaussians.sample(y, streams))
        made = self.part("painting", lambda: {"x": self.solved(task, recipe, "painting", steps, y=y)[-1].cpu()})
        x = made["x"].to(self.device)

        @torch.no_grad()
        def seen(x: Tensor) -> float:
            return float((self.judge(x).argmax(1) == y).float().mean())

        result = Painted(
            held=seen(x),
            held_ci=intervals.proportion(seen(x), len(x)),
            before=seen(z),
            pasted=seen(pasted),
            moved=float((x - z).flatten(1).norm(dim=1).mean()),
            outside=float((x - task.completion(x)).abs().max()),
            n=len(x),
        )
        rows = {"test image": z, "next class pasted": pasted, "next class painted": x}
        return result, {way: to_bytes(images[:STRIP]) for way, images in rows.items()}

    def translated(self, recipe: Recipe) -> tuple[Translated, dict[str, np.ndarray]]:
        """From the first out-distribution set that has images of its own."""
        names = [name for name, source in self.subject.out.items() if source != "uniform"] or list(self.subject.out)
        source = names[0]
        images = self.subject.outside[source][: max(self.spec.n, LEAST)]
        z = to_pixels(torch.from_numpy(images.x)).permute(0, 3, 1, 2).contiguous().to(self.device)
        sampler, _ = a.parts(recipe)
        steps = self.spec.reach * sampler.steps

        def made() -> dict[str, Tensor]:
            found = self.solved(a.translation(z), recipe, "translation", steps, frames=self.spec.frames)
            return {"x": torch.stack(found).cpu()}

        path = self.part("translation", made)["x"].to(self.device)
        reference = fitted(self.features(balanced(self.subject.images("train"), len(z)).pixels(self.device)))
        result = Translated(
            source=source,
            steps=[steps * k // (len(path) - 1) for k in range(len(path))],
            fid=[distance(fitted(self.features(x)), reference) for x in path],
            moved=[float((x - z).flatten(1).norm(dim=1).mean()) for x in path],
            n=len(z),
        )
        return result, {f"{k} steps": to_bytes(x[:STRIP]) for k, x in zip(result.steps, path, strict=True)}

    def composed(self, expression: str, recipe: Recipe) -> tuple[Composed, np.ndarray]:
        """Images of an expression, from the Gaussians of the classes that it wants."""
        classes = self.subject.about["classes"]
        if (word := a.unknown(expression, classes)) is not None:
            raise ValueError(f"compositions: {expression!r} has {word}; classes are 0 to {classes - 1}")
        start = torch.tensor([int(word) for word in a.wanted(expression)] or range(classes), device=self.device)
        ids = torch.arange(self.spec.n, device=self.device)
        streams = Streams(SEED, "applications", expression, ids=ids)
        (sampler, _), of = a.parts(recipe), a.class_energy(recipe)

        def made() -> dict[str, Tensor]:
            passes = replace(self.make.passes, graphs=False)  # energies of several words pass before any goes backward
            with passes.sampling(self.make.net) as f:

                def energy(word: str) -> a.Energy:
                    return of(f, torch.full_like(ids, int(word)))

                x = self.gaussians.sample(start[ids % len(start)], streams)
                return {
                    "x": sampler(a.composition(expression, energy, self.spec.negation), x, streams)
                    .clamp(0, 1)
                    .detach()
                    .cpu()
                }

        x = self.part(f"composition {expression}", made)["x"].to(self.device)
        with torch.no_grad():
            seen = self.judge(x).argmax(1)
        share = float(a.held(expression, lambda word: seen == int(word)).float().mean())
        shares = {word: float((seen == int(word)).float().mean()) for word in a.words(expression)}
        result = Composed(held=share, held_ci=intervals.proportion(share, len(x)), shares=shares, n=len(x))
        return result, to_bytes(x[:STRIP])
