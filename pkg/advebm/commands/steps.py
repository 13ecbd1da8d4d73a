"""Sample quality against the number of steps."""

import copy
import re
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from advebm import config
from advebm.commands import options as o
from advebm.commands.sample import STRIP
from advebm.reports.tables import about, table
from advebm.runtime import project

if TYPE_CHECKING:
    from advebm.evaluation.steps import Curve, StepsResult
    from advebm.samplers.recipes import Recipe


def steps(
    method: o.Method,
    model: o.ModelFile,
    data: o.Prepared,
    gaussians: o.GaussiansFile,
    judge: o.Judge,
    out: o.OutFolder,
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
    root: o.Root = None,
    images: Annotated[int, Option(min=20, help="images of each recipe, and of the validation split")] = 1000,
    lengths: Annotated[str, Option(help="numbers of steps, increasing")] = "10,20,40,80,160,320,640",
    recipe: Annotated[list[str] | None, Option(help="a recipe, may be repeated [default: all that have a chain]")] = None,
    vary: Annotated[
        list[str] | None,
        Option(
            help="KEY=VALUE,VALUE,... of a recipe, such as combined.attack.eps=0.1,0.2: a curve for each value; several, "
            "separated by spaces: for each combination"
        ),
    ] = None,
    change: Annotated[
        list[str] | None,
        Option("--set", help="KEY=VALUE to set in a recipe, such as sgld.chain.step_size=0.2, for all its curves"),
    ] = None,
    fid: Annotated[float | None, Option(min=0, help="a FID, for the number of steps after which each reaches it")] = None,
    quiet: o.Quiet = False,
) -> None:
    """Measure FID and label consistency, on validation images, against the number of steps of each recipe's last chain.
    Writes steps.json, steps.png, and in pictures/ the same images after each number of steps.

    Chains with noise are then continued with Metropolis' adjustment, which samples the energy's own distribution at the
    chain's temperature: it says how far from that the images are.

    The table says where FID is lowest and, with --fid, after how many steps it is that low. It also says what a longer
    chain makes of the images: FID, the energy E(x), and the share of pixels that are black or white, after the last length.

    Each recipe runs one chain, of the largest number of steps. The results serve to choose a recipe's number of steps and,
    with --vary, its other numbers, without test images and without the reference images of a reported FID (unless these are
    all of train and validation). With --vary the numbers of params.yaml have a curve too.
    """
    entry = config.read(params, study, method)
    counts = increasing(lengths)
    curves = variants(entry, method, f"{params}: {study}", recipe or [], vary or [], change or [])
    from dataclasses import asdict

    from advebm import figures
    from advebm.data.images import digest
    from advebm.evaluation import steps as s
    from advebm.evaluation.generation import Generator
    from advebm.evaluation.quality import Quality
    from advebm.evaluation.subject import Surroundings
    from advebm.runtime import disk, progress, state, tracking

    around = Surroundings(
        data=data, judge=judge, root=project.data_root(root), bar=lambda name: progress.bar(f"steps {name}", quiet)
    )
    described = around.about
    available = min(described["images"][split] for split in ("validation", "train"))
    if images > available:
        raise ValueError(f"--images {images}: there are only {available} validation or training images")
    around.load_judge()  # report a wrong one before drawing anything
    recipes = {name: made for name, (_, made) in curves.items()}
    make = Generator.load(model, data, gaussians, recipes, entry["precision"], f"{study}.sampling.{method}")
    numbers: dict[str, Any] = {"images": images, "lengths": counts, "target": fid}
    numbers["recipes"] = {name: asdict(made) for name, made in recipes.items()}
    spec = {**numbers, "quality": entry["quality"], "precision": entry["precision"]}
    key = [method, spec, described["sha256"], *(digest(file) for file in (model, gaussians, judge))]
    known = {"steps.images": images, "steps.lengths": counts}
    tracked = tracking.run("steps", study, method, params=known, checkpoint=digest(model), spec=spec)
    with state.opened("steps", out, key, __name__) as opened, tracked as run:
        disk.clear(out, "pictures/*.png")
        sets = s.drawn(curves, counts, images, make, part=opened.part, bar=around.bar)
        quality = config.build(Quality, entry["quality"])
        real, found = s.measured(sets, recipes, counts, images, make, quality, around, target=fid)
        result = s.StepsResult(**numbers, real=real, curves=found)
        disk.write_json(out / "steps.json", result.json(), sealed=True)
        title = f"{study} {method}"
        run.artifact(figures.steps(result, out / "steps.png", title), "steps")
        for name, by_length in sets.items():
            rows = {f"{length} steps": found.x[:STRIP] for length, found in by_length.items()}
            picture = out / "pictures" / f"{re.sub(r'[^A-Za-z0-9_.=-]+', '_', name)}.png"
            run.artifact(figures.strip(rows, picture, f"{title}: {name}"), "steps")
        for i, length in enumerate(counts):
            run.metrics({f"steps/{name}": values[i] for name, values in flat(result.curves).items()}, length)
    for name, curve in result.curves.items():
        if (a := curve.adjusted) is not None:
            half = f"half of steps {a.factor:.2g} times as long, after {counts[-1]} of which E is {a.after:.4g}"
            print(f"{name}: E is {a.before:.4g}; of further steps Metropolis takes {a.taken:.3f}, {half}")
    print(*table(*summary(result)), f"wrote {out}", sep="\n")


def summary(result: "StepsResult") -> tuple[list[str], list[list[Any]]]:
    """The header and the rows of the table that is printed, a row for each curve."""
    last = f"after {result.lengths[-1]}"
    asked = [] if result.target is None else [f"steps to FID {result.target:g}"]
    header = ["recipe", "lowest FID", "steps", *asked, "E(x) then", f"FID {last}", f"E(x) {last}", f"saturated {last}"]
    rows = []
    for name, curve in result.curves.items():
        at, reached = result.lengths.index(curve.best), [curve.reached] * len(asked)
        end = [curve.fid[-1], curve.energy[-1], curve.saturated[-1]]
        rows.append([name, about(curve.fid[at], curve.fid_se[at]), curve.best, *reached, curve.energy[at], *end])
    return header, rows


def flat(curves: dict[str, "Curve"]) -> dict[str, list]:
    """{"CURVE/NUMBER": a value for each length}, with names that MLflow accepts."""
    return {
        f"{name.replace('=', ' ')}/{key}": values
        for name, curve in curves.items()
        for key, values in vars(curve).items()
        if isinstance(values, list)
    }


def increasing(lengths: str) -> list[int]:
    """Parse numbers of steps. Raises ValueError unless they are whole numbers that increase."""
    parts = lengths.split(",")
    counts = [int(part) for part in parts if part.strip().isdecimal()]
    if len(counts) < len(parts) or counts[0] < 1 or counts != sorted(set(counts)):
        raise ValueError(f"--lengths {lengths}: must be whole numbers of at least 1 that increase, such as 10,20,40")
    return counts


def combinations(vary: str) -> list[tuple[str, list[str]]]:
    """(name of a recipe, settings KEY=VALUE of it) for each value of KEY=VALUE,VALUE,..., or for each combination of the
    values of several such keys. Raises ValueError."""
    keys, lists = zip(*(part.partition("=")[::2] for part in vary.split() or [""]), strict=True)
    names, own = zip(*(key.partition(".")[::2] for key in keys), strict=True)
    if not all((*own, *lists)) or len(set(names)) > 1:
        raise ValueError(
            f"--vary {vary}: must be KEY=VALUE,VALUE,..., such as combined.attack.eps=0.1,0.2, or several of one recipe, "
            "separated by spaces"
        )
    if {"chain.steps", "ascent.steps"}.intersection(own):
        raise ValueError(f"--vary {vary}: the number of steps is the axis of all curves; give --lengths")
    every = product(*(listed.split(",") for listed in lists))
    return [(names[0], [f"{key}={value}" for key, value in zip(own, values, strict=True)]) for values in every]


def variants(
    entry: dict[str, Any], method: str, where: str, names: list[str], vary: list[str], changes: list[str]
) -> dict[str, tuple[str, "Recipe"]]:
    """{curve: (name of its recipe, recipe)}: for each named recipe of the method, or each that has a chain, a curve with
    the study's numbers after the changes, and one for each value of a number that varies. Raises ValueError."""
    sampling = entry["sampling"][method]
    varied = [combined for text in vary for combined in combinations(text)]
    for name in (*names, *(text.split(".")[0] for text in (*changes, *vary))):
        if name not in sampling:
            raise ValueError(f"{where}.sampling.{method}: no recipe {name!r}; there are {', '.join(sampling) or 'none'}")
    from advebm.evaluation.steps import last_chain

    def built(changed: list[str]) -> dict[str, "Recipe"]:
        copied = {**entry, "sampling": {**entry["sampling"], method: copy.deepcopy(sampling)}}
        config.change_models({"models": copied["sampling"]}, [method], changed)
        config.check(copied, where)
        return config.recipes(copied, method)

    recipes = built(changes)
    curves: dict[str, tuple[str, Recipe]] = {}
    asked = names or [name for name in recipes if last_chain(recipes[name])]
    asked = list(dict.fromkeys([*asked, *(name for name, _ in varied)]))
    for name in asked:
        own_varied = [settings for of, settings in varied if of == name]
        found = {
            " ".join([name, *settings]): built([*changes, *(f"{name}.{setting}" for setting in settings)])[name]
            for settings in own_varied
        }
        own = {} if recipes[name] in found.values() else {name: recipes[name]}
        curves |= {curve: (name, recipe) for curve, recipe in (own | found).items()}
    without = [name for name in asked if not last_chain(recipes[name])]
    if without or not curves:
        raise ValueError(
            f"{where}.sampling.{method}: {f'{without[0]} has no' if without else 'none of its recipes has a'} chain of "
            "steps; sgld, ce_langevin, combined and ascent have one"
        )
    return curves
