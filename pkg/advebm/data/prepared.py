"""What the stage `prepare` wrote: its images, and their description."""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advebm.runtime.disk import read_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from advebm.data.images import Images

LABELLED = ("train", "validation", "test")  # the splits, whose images have the study's classes


def about(data: Path) -> dict[str, Any]:
    """Shape, classes, numbers of images by file, sources of out-distribution images, and digest of all images. Raises
    ValueError where one is missing or wrong."""
    file = data / "about.json"
    content = read_json(file, "prepare")
    for key in ("shape", "classes", "images", "sha256", "out"):
        if key not in content:
            raise ValueError(f"{file}: lacks {key}; run `advebm prepare` again")
    shape, images = content["shape"], content["images"]
    right = {
        "shape": isinstance(shape, list) and len(shape) == 3 and all(map(_positive, shape)),
        "classes": _positive(content["classes"]),
        "images": isinstance(images, dict) and set(LABELLED) <= set(images) and all(map(_positive, images.values())),
        "sha256": isinstance(content["sha256"], str),
        "out": isinstance(content["out"], dict),
    }
    for key, fits in right.items():
        if not fits:
            raise ValueError(f"{file}: {key} is wrong; run `advebm prepare` again")
    return content


def _positive(number: object) -> bool:
    return type(number) is int and number > 0


def load(data: Path, name: str) -> "Images":
    """The images of a split or an out-distribution set. Raises FileNotFoundError, or ValueError where they, or
    others of the folder, are not those that about.json describes."""
    described, file = about(data), data / f"{name}.npz"
    if name not in described["images"]:
        raise ValueError(f"{data / 'about.json'}: has no {name}; run `advebm prepare` again")
    found = shaped(file, described, ours=name in LABELLED)
    if name in LABELLED and found.y is None:
        raise ValueError(
            f"{file}: has no classes, but the study has classes 0 to {described['classes'] - 1}; run `advebm prepare` again"
        )
    files = tuple(_state(data, name) for name in described["images"])
    if _contents(data, files) != (described["images"], described["sha256"]):
        raise ValueError(f"{data}: its images are not those that about.json describes; run `advebm prepare` again")
    return found


def _state(data: Path, name: str) -> tuple[str, int, int]:
    """Name, size and time of change of a file of images."""
    try:
        found = (data / f"{name}.npz").stat()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{data / name}.npz: not there; run `advebm prepare` again") from error
    return name, found.st_size, found.st_mtime_ns


@lru_cache
def _contents(data: Path, files: tuple[tuple[str, int, int], ...]) -> tuple[dict[str, int], str]:
    """Numbers of images by file, and the digest of all. The files are read again only where their states differ."""
    from advebm.data import images

    described, counts = about(data), {}

    def read() -> "Iterator[tuple[str, Images]]":
        for name, *_ in files:
            found = shaped(data / f"{name}.npz", described, ours=False)
            counts[name] = len(found.x)
            yield name, found

    return counts, images.digest_arrays(read())


def shaped(file: Path, described: dict[str, Any], *, ours: bool = True) -> "Images":
    """The images of a file. Raises FileNotFoundError, or ValueError where they are not of the shape in about.json or, if
    their classes are to be `ours`, have others."""
    from advebm.data import images

    found, classes = images.load(file), described["classes"]
    height, width, channels = found.x.shape[1:]
    if (shape := [channels, height, width]) != described["shape"]:
        raise ValueError(f"{file}: holds images {shape}, not {described['shape']}; it belongs to another study")
    if ours and found.y is not None and (y := found.y.max()) >= classes:
        raise ValueError(f"{file}: has an image of class {y}, but the study has classes 0 to {classes - 1}; make it again")
    return found
