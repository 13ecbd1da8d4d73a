"""What the stage `prepare` wrote: its images, and their description."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from advebm.runtime.disk import read_json

if TYPE_CHECKING:
    from advebm.data.images import Images

LABELLED = ("train", "validation", "test")  # the splits, whose images have the study's classes


def about(data: Path) -> dict[str, Any]:
    """Shape, classes, numbers of images by file, and digest. Raises ValueError where one is missing or wrong."""
    file = data / "about.json"
    content = read_json(file, "prepare")
    for key in ("shape", "classes", "images", "sha256"):
        if key not in content:
            raise ValueError(f"{file}: lacks {key}; run `advebm prepare` again")
    shape, images = content["shape"], content["images"]
    right = {
        "shape": isinstance(shape, list) and len(shape) == 3 and all(map(_positive, shape)),
        "classes": _positive(content["classes"]),
        "images": isinstance(images, dict) and set(LABELLED) <= set(images) and all(map(_positive, images.values())),
        "sha256": isinstance(content["sha256"], str),
    }
    for key, fits in right.items():
        if not fits:
            raise ValueError(f"{file}: {key} is wrong; run `advebm prepare` again")
    return content


def _positive(number: object) -> bool:
    return type(number) is int and number > 0


def load(data: Path, name: str) -> "Images":
    """The images of a split or an out-distribution set. Raises FileNotFoundError, or ValueError where they are not what
    about.json says."""
    described, file = about(data), data / f"{name}.npz"
    found, classes = shaped(file, described), described["classes"]
    if name in LABELLED and (found.y is None or found.y.max() >= classes):
        what = "no classes" if found.y is None else f"an image of class {found.y.max()}"
        raise ValueError(f"{file}: has {what}, but the study has classes 0 to {classes - 1}; run `advebm prepare` again")
    return found


def shaped(file: Path, described: dict[str, Any]) -> "Images":
    """The images of a file. Raises FileNotFoundError, or ValueError where they are not of the shape in about.json."""
    from advebm.data import images

    found = images.load(file)
    height, width, channels = found.x.shape[1:]
    if (shape := [channels, height, width]) != described["shape"]:
        raise ValueError(f"{file}: holds images {shape}, not {described['shape']}; it belongs to another study")
    return found
