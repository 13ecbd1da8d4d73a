"""`advebm apply`: translation, inpainting, painting, denoising, super-resolution, interpolation and composition."""

from collections.abc import Callable
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from advebm.commands import options as o

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from advebm.api import Model

SHOWN = 10  # images in a row of the pictures
SCALE, PACE = 4, 300  # of the moving picture: pixels for each, milliseconds for each frame

apply = typer.Typer(help="Apply a model to images: folders, or .npz files with x uint8 (N, H, W, C).", no_args_is_help=True)

Given = Annotated[Path, Argument(metavar="IMAGES", help="folder of images, or .npz with x uint8 (N, H, W, C)")]
Out = Annotated[Path, Option(help="folder to write: the images, strip.png and steps.gif")]
Recipe = Annotated[str | None, Option(help="recipe of the model whose chain is used [default: its first]")]
Steps = Annotated[int | None, Option(min=0, help="steps of the chain [default: the recipe's]")]
Frames = Annotated[int, Option(min=1, help="parts of the steps that the pictures show")]
Class = Annotated[int | None, Option("--class", help="class of all images [default: what the model sees]")]
Seed = Annotated[int, Option(help="of the noise")]


def application(title: str) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """A command for a function of the model, the images and its own options; the options of all applications that it does
    not have are added."""
    shared = {"images": Given, "model": o.ModelFile, "out": Out}
    last = {"recipe": Recipe, "steps": Steps, "frames": Frames, "y": Class, "seed": Seed}
    defaults = {"recipe": None, "steps": None, "frames": 8, "y": None, "seed": 0}

    def made(solve: Callable[..., Any]) -> Callable[..., None]:
        def run(images: Path, model: Path, out: Path, **options: Any) -> None:
            loaded, x, names = _opened(model, images)
            _write(out, images, names, solve(loaded, x, **options), title)

        own = [p for p in signature(solve).parameters.values() if p.kind == Parameter.KEYWORD_ONLY]
        more = {key: kind for key, kind in last.items() if key not in signature(solve).parameters}
        parameters = [Parameter(key, Parameter.KEYWORD_ONLY, annotation=kind) for key, kind in shared.items()]
        parameters += own
        parameters += [
            Parameter(key, Parameter.KEYWORD_ONLY, annotation=kind, default=defaults[key]) for key, kind in more.items()
        ]
        run.__name__, run.__doc__ = solve.__name__, solve.__doc__
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        return apply.command()(run)

    return made


@application("translation")
def translate(model: "Model", x: "np.ndarray", **how: Any) -> Any:
    """Move images of another domain to the model's, by so many steps."""
    return model.translate(x, **how)


@application("inpainting")
def inpaint(
    model: "Model",
    x: "np.ndarray",
    *,
    mask: Annotated[Path | None, Option(help="image of the model's size, white where pixels are known")] = None,
    hole: Annotated[float, Option(min=0, max=1, help="without --mask: side of the unknown square, of the image's")] = 0.5,
    **how: Any,
) -> Any:
    """Fill in unknown pixels."""
    from advebm.samplers.applications import around

    return model.inpaint(x, around(hole, *model.shape[1:]) if mask is None else _white(mask, model), **how)


@application("painting")
def paint(
    model: "Model",
    x: "np.ndarray",
    *,
    y: Annotated[int, Option("--class", help="class to paint")],
    region: Annotated[Path | None, Option(help="image of the model's size, white where it is to be painted")] = None,
    side: Annotated[
        float, Option(min=0, max=1, help="without --region: of the square in the middle, of the image's")
    ] = 0.5,
    **how: Any,
) -> Any:
    """Paint a class into a region, and leave the rest as it is."""
    from advebm.samplers.applications import around

    return model.paint(x, ~around(side, *model.shape[1:]) if region is None else _white(region, model), y, **how)


@application("denoising")
def denoise(
    model: "Model",
    x: "np.ndarray",
    *,
    std: Annotated[float, Option(help="deviation of the noise, images in [0, 1]")],
    weight: Annotated[float, Option(min=0, help="how much the images count beside the energy")] = 0.01,
    **how: Any,
) -> Any:
    """Remove noise."""
    return model.denoise(x, std, weight=weight, **how)


@application("super-resolution")
def restore(model: "Model", x: "np.ndarray", **how: Any) -> Any:
    """Raise the resolution: images smaller by an integer become images of the model's size."""
    return model.restore(x, **how)


@apply.command()
def interpolate(
    images: Given,
    to: Annotated[Path, Argument(metavar="TO", help="as many images, of the same kinds")],
    model: o.ModelFile,
    out: Out,
    columns: Annotated[int, Option(min=2, help="images of a row")] = 9,
    recipe: Recipe = None,
    steps: Steps = None,
    y: Class = None,
    seed: Seed = 0,
) -> None:
    """Rows of images from each of IMAGES to that of TO."""
    from advebm.data import given

    loaded, x, _ = _opened(model, images)
    made = loaded.interpolate(x, given.read(to)[0].x, columns, y, recipe=recipe, steps=steps, seed=seed)
    _write(out, None, [], made.flatten(0, 1)[None], "interpolation")


@apply.command()
def compose(
    expression: Annotated[str, Argument(help="such as '3 and not 8', or '3 and ink2' with --with ink=MODEL")],
    model: o.ModelFile,
    out: Out,
    n: Annotated[int, Option(min=1, help="images")] = 100,
    others: Annotated[
        list[str] | None, Option("--with", metavar="NAME=MODEL", help="a further model of such images")
    ] = None,
    judges: Annotated[
        list[str] | None, Option("--judge", metavar="[NAME=]MODEL", help="a classifier that tells where it holds")
    ] = None,
    holds: Annotated[str | None, Option(help="expression that the judges are asked [default: EXPRESSION]")] = None,
    weight: Annotated[float, Option(min=0, help="of not")] = 0.1,
    recipe: Recipe = None,
    steps: Steps = None,
    seed: Seed = 0,
) -> None:
    """Generate images of an expression over classes, by and, or, not."""
    from advebm import api
    from advebm.evaluation import intervals
    from advebm.samplers import applications

    loaded, more = api.load(model), {name: api.load(file) for name, file in _named(others, "--with")}
    seen = {name: api.load(file) for name, file in _named(judges, "--judge")}
    words = applications.words(holds or expression)
    for word in words if seen or holds else ():
        name, number = applications.named(word)
        if name not in seen:
            raise ValueError(f"--judge: lacks one for {name!r}")
        if not number or int(number) >= seen[name].classes:
            raise ValueError(f"{word!r} is no class; its judge has {name}0 to {name}{seen[name].classes - 1}")
    made = loaded.compose(expression, n, recipe, others=more, weight=weight, steps=steps, seed=seed)
    _write(out, None, [], made[None], f"composition {expression}")
    if seen:
        classes = {name: judge.classify(made.to(judge.device)).y.cpu() for name, judge in seen.items()}

        def of_class(word: str) -> Any:
            name, number = applications.named(word)
            return classes[name] == int(number)

        shares = [f"{of_class(word).float().mean():.3f} are {word}" for word in words]
        held = float(applications.held(holds or expression, of_class).float().mean())
        low, high = intervals.proportion(held, n)
        about = f"{held:.3f} [{low:.3f}, {high:.3f}] of {n} images as the judges see them"
        print(f"{holds or expression} holds for {about}; {', '.join(shares)}")


def _named(entries: list[str] | None, option: str) -> list[tuple[str, Path]]:
    """NAME=MODEL as pairs; the name of a judge of --model is empty."""
    found = []
    for entry in entries or []:
        name, equals, file = entry.rpartition("=")
        if (not equals and option == "--with") or (name and not name.isidentifier()) or name[-1:].isdecimal():
            raise ValueError(f"{option} {entry}: must be NAME=MODEL, the name of letters")
        found.append((name, Path(file)))
    return found


def _white(file: Path, model: "Model") -> Any:
    """The mask (H, W) of the white pixels of an image of the model's size."""
    from advebm.data import folders, given

    _, height, width = model.shape
    found = folders.pixels(file)
    if found.shape[:2] != (height, width):
        raise ValueError(f"{file}: is {found.shape[0]}x{found.shape[1]}, images of the model are {height}x{width}")
    return given.pixels(found, (1 if found.ndim == 2 else found.shape[2], height, width))[0].mean(0) > 0.5


def _opened(model: Path, images: Path) -> "tuple[Model, np.ndarray, list[str]]":
    from advebm import api
    from advebm.data import given

    found, names = given.read(images)
    return api.load(model), found.x, names


def _write(out: Path, images: Path | None, names: list[str], path: Any, title: str) -> None:
    """Write the last images of a path (frames, N, C, H, W): as .png files of the same names where they came as such, else
    as images.npz; and pictures of the first ones."""
    from advebm import figures
    from advebm.data.images import Images, save, to_bytes
    from advebm.figures.canvas import tiled

    frames = [to_bytes(x) for x in path]
    out.mkdir(parents=True, exist_ok=True)
    if images is not None and images.is_dir():
        for name, x in zip(names, frames[-1], strict=True):
            file = (out / name).with_suffix(".png")
            file.parent.mkdir(parents=True, exist_ok=True)
            picture(x).save(file)
    else:
        save(out / "images.npz", Images(frames[-1]))
    if len(frames) == 1:
        figures.grid(frames[0][: SHOWN * SHOWN], out / "strip.png", title, SHOWN)
    else:
        rows = {f"{k} of {len(frames) - 1}": x[:SHOWN] for k, x in enumerate(frames)}
        figures.strip(rows, out / "strip.png", title)
        moving = [picture(tiled(x[:SHOWN], SHOWN).repeat(SCALE, 0).repeat(SCALE, 1)) for x in frames]
        moving[0].save(out / "steps.gif", save_all=True, append_images=moving[1:], duration=PACE, loop=0)
    count = len(frames[-1])
    print(f"wrote {out}: {count} images, and pictures of the first {min(count, SHOWN)}")


def picture(x: "np.ndarray") -> "Image":
    """uint8 (H, W, C) as a PIL image."""
    from PIL import Image

    return Image.fromarray(x[..., 0] if x.shape[-1] == 1 else x)
