"""The subject of a measurement: a trained model, and the files that the measurement may read."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from advebm import networks
from advebm.data import images
from advebm.data.images import Images
from advebm.data.prepared import about, load, shaped
from advebm.evaluation.generation import Generator
from advebm.networks.passes import convolving
from advebm.ranges import Precision
from advebm.runtime.parts import BATCH
from advebm.samplers.recipes import Recipe

MADE_BY = {"samples": "sample", "gaussians": "gaussians", "judge": "train judge", "baselines": "baselines"}
ABOVE = 0.2  # a judge must be right for chance and this part of the rest; that of digits is for .98, a useless one for 0


@dataclass(kw_only=True)
class Surroundings:
    """The prepared data, the judge, and the progress bars of a measurement."""

    data: Path  # the folder that `prepare` wrote
    judge: Path = Path()
    root: Path = Path()  # the data root, which may have Inception's weights
    bar: Callable[[str], Callable] = lambda name: iter  # a progress bar, by name

    @cached_property
    def about(self) -> dict:
        """What `prepare` wrote about the images: shape, classes, ..."""
        return about(self.data)

    def images(self, split: str) -> Images:
        return load(self.data, split)

    def load_judge(self) -> networks.Network:
        """The judge. Raises ValueError where it is not one of the prepared images, or classifies them hardly better than
        chance."""
        judge, _ = networks.load(self.judge, networks.device(), about=self.about, judge=True)
        accuracy, chance = label_consistency(judge, self.images("validation")), 1 / self.about["classes"]
        least = chance + ABOVE * (1 - chance)
        if accuracy < least:
            raise ValueError(
                f"{self.judge}: its accuracy on the validation images is {accuracy:.3f}, chance {chance:.3f}; a judge "
                f"needs {least:.3f}: train it longer"
            )
        return judge


@dataclass(kw_only=True)
class Subject(Surroundings):
    """A trained model and its surroundings. Everything is loaded on first use."""

    method: str
    name: str  # of its recipes in params.yaml, for messages
    model: Path  # model.safetensors
    detector: str = "energy"  # the method's detection score
    recipes: dict[str, Recipe]
    count: int  # samples per recipe
    out: dict[str, str]  # the study's out-distribution sets: {name: source}
    precision: Precision = "fp32"  # in which samples are drawn
    samples: Path = Path()  # the folder that `sample` wrote
    gaussians: Path = Path()
    baselines: Path = Path()  # the folder that `baselines` wrote

    @cached_property
    def net(self) -> networks.Network:
        """The model, in evaluation mode. Raises ValueError where it does not fit the prepared images."""
        return networks.load(self.model, networks.device(), about=self.about)[0]

    def inputs(self, names: Iterable[str]) -> list[str]:
        """sha256 of the files of the named inputs. Raises FileNotFoundError that names the command to run."""
        files = {getattr(self, name): MADE_BY[name] for name in names if name in ("gaussians", "judge")}
        if "samples" in names:
            files |= {self.samples / f"{name}.npz": MADE_BY["samples"] for name in self.recipes}
        if "baselines" in names:
            files |= {self.baselines / "baselines.json": MADE_BY["baselines"]}
            buffer = networks.beside(self.model, "replay_buffer.npz")
            files |= {buffer: "train"} if buffer else {}
        for file, command in files.items():
            if not file.is_file():
                raise FileNotFoundError(f"{file}: not found; `advebm {command}` makes it")
        return [images.digest(file) for file in files]

    @cached_property
    def outside(self) -> dict[str, Images]:
        """The study's out-distribution sets, by name. Raises FileNotFoundError where one is missing, ValueError where
        `prepare` wrote others."""
        written = {name: source for name, source in self.about["out"].items() if name != "outliers"}
        if written != self.out:
            shown = f"{self.data}: has the out-distribution sets {written}, the study has {self.out}"
            raise ValueError(f"{shown}; run `advebm prepare` again")
        return {name: self.images(f"out/{name}") for name in sorted(written)}

    @cached_property
    def sampled(self) -> dict[str, Images]:
        """The samples of each recipe. Raises FileNotFoundError or ValueError where a recipe's file is missing or wrong."""
        return {name: shaped(self.samples / f"{name}.npz", self.about) for name in self.recipes}

    @cached_property
    def generator(self) -> Generator:
        """The generator of images by the recipes."""
        return Generator.load(self.model, self.data, self.gaussians, self.recipes, self.precision, self.name)


@convolving("fp32")
@torch.no_grad()
def label_consistency(judge: nn.Module, images: Images, batch: int = BATCH) -> float:
    """The share of images that the judge classifies as the class they were generated for."""
    device = next(judge.parameters()).device
    parts = [images[i : i + batch] for i in range(0, len(images.x), batch)]
    right = sum((judge(p.pixels(device)).argmax(1) == p.labels(device)).sum().item() for p in parts)
    return right / len(images.x)
