"""Quality against the number of steps."""

import copy
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from advebm import config
from advebm.commands import options as o
from advebm.commands.baselines import Root
from advebm.commands.measuring import network
from advebm.commands.prepare import about, data_root
from advebm.commands.sample import STRIP, company, generator

if TYPE_CHECKING:
    from advebm.data.images import Images
    from advebm.evaluation.features import Network as FeatureNetwork
    from advebm.evaluation.parts import Part
    from advebm.networks import Network
    from advebm.networks.passes import Passes
    from advebm.samplers.recipes import Recipe, Starts


def steps(
    method: o.Method,
    model: o.ModelFile,
    data: o.Prepared,
    gaussians: o.GaussiansFile,
    judge: o.Judge,
    out: o.OutFolder,
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
    root: Root = None,
    images: Annotated[int, Option(min=20, help="images by each recipe, and of the validation split")] = 1000,
    lengths: Annotated[str, Option(help="numbers of steps")] = "10,20,40,80,160,320,640",
    recipe: Annotated[list[str] | None, Option(help="a recipe, again for more [default: all that have a chain]")] = None,
    vary: Annotated[
        list[str] | None, Option(help="KEY=VALUE,VALUE,... of a recipe, such as combined.attack.eps=0.1,0.2: a curve each")
    ] = None,
    change: Annotated[
        list[str] | None,
        Option("--set", help="KEY=VALUE of a recipe, such as sgld.chain.step_size=0.2, for all its curves"),
    ] = None,
    quiet: o.Quiet = False,
) -> None:
    """FID and label consistency, on validation images, against the number of steps of each recipe's last chain: steps.json,
    steps.png, and in pictures/ the same images after each number of steps.

    One chain of each recipe is run, to the longest. By this a recipe's steps, and by --vary its other numbers, are chosen,
    without a test image and without the images that a reported FID is against (but where those are all of train and
    validation). The numbers of params.yaml have a curve beside those of --vary.
    """
    entry = config.read(params, study, method)
    counts = increasing(lengths)
    curves = variants(entry, method, f"{params}: {study}", recipe or [], vary or [], change or [])
    from dataclasses import asdict

    from advebm import figures, tracking
    from advebm.data.images import digest
    from advebm.networks import device
    from advebm.networks.passes import Passes
    from advebm.state import opened

    described = about(data)
    there = min(described["images"][split] for split in ("validation", "train"))
    if images > there:
        raise ValueError(f"--images {images}: but there are {there} validation or training images")
    recipes = {name: made for name, (_, made) in curves.items()}
    net, starts = generator(recipes, f"{study}.sampling.{method}", model, data, gaussians)
    passes = Passes.on(device(), entry["precision"])
    judging = network(judge, data)
    numbers = {"images": images, "lengths": counts, "recipes": {name: asdict(made) for name, made in recipes.items()}}
    spec = {**numbers, "quality": entry["quality"], "precision": entry["precision"]}
    key = [method, spec, described["sha256"], *(digest(file) for file in (model, gaussians, judge))]
    with (
        opened("steps", out, key) as state,
        tracking.run(stage="steps", study=study, method=method, checkpoint=digest(model), spec=spec) as run,
    ):
        sets = drawn(
            curves, counts, images, net, passes, starts, classes=described["classes"], part=state.part, quiet=quiet
        )
        using = feature_network(entry["quality"], judging, data_root(root), quiet)
        numbers |= measured(sets, counts, images, net, passes, judging, using, data)
        out.mkdir(parents=True, exist_ok=True)
        (out / "steps.json").write_text(json.dumps(numbers, indent=1) + "\n")
        title = f"{study} {method}"
        run.artifact(figures.steps(numbers, out / "steps.png", title), "steps")
        for name, by_length in sets.items():
            rows = {f"{length} steps": x[:STRIP] for length, (x, _) in by_length.items()}
            picture = out / "pictures" / f"{re.sub(r'[^A-Za-z0-9_.=-]+', '_', name)}.png"
            run.artifact(figures.strip(rows, picture, f"{title}: {name}"), "steps")
        for i, length in enumerate(counts):
            run.metrics({f"steps/{name}": values[i] for name, values in flat(numbers["curves"]).items()}, length)
    found = [f"{name}: FID {min(curve['fid']):.3g} at {curve['best']} steps" for name, curve in numbers["curves"].items()]
    print(f"wrote {out}: {', '.join(found)}")


def flat(curves: dict[str, dict[str, Any]]) -> dict[str, list]:
    """{"CURVE/NUMBER": a value for each length}, by names that MLflow takes."""
    return {
        f"{name.replace('=', ' ')}/{key}": values
        for name, curve in curves.items()
        for key, values in curve.items()
        if isinstance(values, list)
    }


def increasing(lengths: str) -> list[int]:
    """Numbers of steps. Raises ValueError where they are not whole numbers that increase."""
    parts = lengths.split(",")
    counts = [int(part) for part in parts if part.strip().isdecimal()]
    if len(counts) < len(parts) or counts[0] < 1 or counts != sorted(set(counts)):
        raise ValueError(f"--lengths {lengths}: must be whole numbers of at least 1 that increase, such as 10,20,40")
    return counts


def variants(
    entry: dict[str, Any], method: str, where: str, names: list[str], vary: list[str], changes: list[str]
) -> dict[str, tuple[str, "Recipe"]]:
    """{curve: (name of its recipe, recipe)}: of the named recipes of the method, or of all that have a chain, by the
    study's numbers after the changes, and by each value of a number that varies. Raises ValueError."""
    sampling = entry["sampling"][method]
    varied = [(text, *text.partition("=")[::2]) for text in vary]
    for text, key, values in varied:
        if "." not in key or not values:
            raise ValueError(f"--vary {text}: must be KEY=VALUE,VALUE,..., such as combined.attack.eps=0.1,0.2")
        if key.split(".")[1:] in (["chain", "steps"], ["ascent", "steps"]):
            raise ValueError(f"--vary {text}: the number of steps is what all curves are against; give --lengths")
    for name in (*names, *(text.split(".")[0] for text in (*changes, *vary))):
        if name not in sampling:
            raise ValueError(f"{where}.sampling.{method}: no recipe {name!r}; there are {', '.join(sampling) or 'none'}")
    from advebm.evaluation.steps import last_chain

    def built(changed: list[str]) -> dict[str, "Recipe"]:
        copied = {**entry, "sampling": {**entry["sampling"], method: copy.deepcopy(sampling)}}
        config.change_models({"models": copied["sampling"]}, [method], changed)
        config.check(copied, where)
        return config.recipes(copied, method)

    recipes, curves = built(changes), {}
    asked = names or [name for name in recipes if last_chain(recipes[name])]
    asked = list(dict.fromkeys([*asked, *(key.split(".")[0] for _, key, _ in varied)]))
    for name in asked:
        values = [(key, value) for _, key, listed in varied if key.split(".")[0] == name for value in listed.split(",")]
        found = {f"{key.replace('.', ' ', 1)}={value}": built([*changes, f"{key}={value}"])[name] for key, value in values}
        own = {} if recipes[name] in found.values() else {name: recipes[name]}
        curves |= {curve: (name, recipe) for curve, recipe in (own | found).items()}
    without = [name for name in asked if not last_chain(recipes[name])]
    if without or not curves:
        raise ValueError(
            f"{where}.sampling.{method}: {f'{without[0]} has no' if without else 'none of its recipes has a'} chain of "
            "steps; sgld, ce_langevin, combined and ascent have one"
        )
    return curves


def drawn(
    curves: dict[str, tuple[str, "Recipe"]],
    lengths: list[int],
    n: int,
    net: "Network",
    passes: "Passes",
    starts: "Starts",
    *,
    classes: int,
    part: "Part",
    quiet: bool,
) -> dict[str, dict[int, "Images"]]:
    """{curve: {length: n images}}, drawn as `sample` draws them; length 0 is what the chain starts from. Raises ValueError
    where an image is not finite."""
    from functools import partial

    import torch

    from advebm import progress
    from advebm.data.images import Images, to_bytes
    from advebm.evaluation.parts import BATCH, SEED, gathered
    from advebm.evaluation.steps import snapshots
    from advebm.samplers.streams import Streams

    y = torch.arange(n, device=next(net.parameters()).device)

    def generated(curve: str, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        name, recipe = curves[curve]
        with passes.sampling(net) as f:
            together = company(net, ids)
            streams = Streams(SEED, "sample", name, ids=together)
            found = snapshots(recipe, f, together % classes, starts, streams, lengths)
        found = {length: x[: len(ids)] for length, x in found.items()}
        for length, x in found.items():
            if not x.isfinite().all():
                raise ValueError(f"{curve}: images are not finite after {length} steps; take fewer or smaller steps")
        return {str(length): torch.from_numpy(to_bytes(x)) for length, x in found.items()}

    sets = {}
    for curve, (_, recipe) in curves.items():
        makers = {f"{curve} from {ids[0]}": partial(generated, curve, ids) for ids in y.split(BATCH)}
        parts = gathered(makers, part, progress.bar(f"steps {curve}", quiet))
        asked = (y % classes).cpu().numpy() if recipe.asks else None
        sets[curve] = {
            length: Images(torch.cat([made[str(length)] for made in parts]).numpy(), asked) for length in (0, *lengths)
        }
    return sets


def feature_network(quality: dict[str, Any], judging: "Network", root: Path, quiet: bool) -> "FeatureNetwork":
    """The network whose features the study's FID is of."""
    from advebm import progress, state
    from advebm.evaluation.features import network
    from advebm.evaluation.quality import Quality

    def bar(name: str):
        return progress.bar(f"steps {name}", quiet)

    spec = config.build(Quality, quality)
    return network(spec, judging, judging.shape[0], root, cache=state.features(spec.features).part, bar=bar)


def measured(
    sets: dict[str, dict[int, "Images"]],
    lengths: list[int],
    n: int,
    net: "Network",
    passes: "Passes",
    judging: "Network",
    using: "FeatureNetwork",
    data: Path,
) -> dict[str, Any]:
    """{curves: {name: {fid, fid_se, label_consistency, energy, saturated: a number for each length; best}}, real: the same
    numbers of n validation images, without FID, and of n training images}. FID is against the validation images."""
    from advebm.data import images
    from advebm.evaluation import steps as s
    from advebm.evaluation.quality import Reference

    validation, train = (images.load(data / f"{split}.npz")[:n] for split in ("validation", "train"))
    reference = Reference(validation, using)

    def numbers(content: "Images", name: str) -> dict[str, float | None]:
        return s.scores(content, reference, using, name) | s.looks(net, judging, content, passes)

    real = {"validation": s.looks(net, judging, validation, passes), "train": numbers(train, "train")}
    curves = {}
    for curve, by_length in sets.items():
        found = [numbers(by_length[length], f"{curve} {length}") for length in lengths]
        curves[curve] = {key: [number[key] for number in found] for key in found[0]}
        curves[curve]["best"] = s.best(curves[curve]["fid"], lengths)
    return {"real": real, "curves": curves}
