"""Images of a folder: one file an image, one sub-folder a class. They have one size, or are brought to a square."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from advebm.data.images import Images, picture

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def read(top: Path, size: int | None = None) -> dict[str, Images]:
    """The images of a folder, by split: of its sub-folders `train` and `test`, if it has no others, else "all". Sub-folders
    of a split are the classes in alphabetical order; links are followed, and hidden names skipped. With a size, images are
    `reduced` to it.

    Raises FileNotFoundError, OSError where a folder cannot be read, or ValueError with the file or folder that is wrong.
    """
    if not top.is_dir():
        raise FileNotFoundError(f"{top}: no such folder of images")
    names = sorted(place.name for place in visible(top) if place.is_dir())
    splits = names if names in (["test", "train"], ["train"]) else []
    if not splits:
        return {"all": labelled(top, size)[0]}
    found = {split: labelled(top / split, size) for split in splits}
    if len({tuple(classes) for _, classes in found.values()}) > 1:
        raise ValueError(f"{top}: train and test must have the same sub-folders, one for each class")
    return {split: images for split, (images, _) in found.items()}


def visible(folder: Path) -> list[Path]:
    """The files and folders there that are not hidden, in alphabetical order."""
    return sorted(place for place in folder.iterdir() if not place.name.startswith("."))


def labelled(top: Path, size: int | None = None) -> tuple[Images, list[str]]:
    """The images of a folder, `reduced` to a size if one is given, and, if it has sub-folders, their names: the classes."""
    classes = [place for place in visible(top) if place.is_dir()]
    if classes and any(place.is_file() and is_image(place) for place in visible(top)):
        raise ValueError(f"{top}: holds images beside its sub-folders, which are classes; move them into one")
    files: list[Path] = []
    y: list[int] = []
    for k, place in enumerate(classes or [top]):
        own = pictures(place)
        if not own:
            raise ValueError(f"{place}: holds no images ({', '.join(SUFFIXES)})")
        files += own
        y += [k] * len(own)
    images = [pixels(file, size) for file in files]
    for image, file in zip(images, files, strict=True):
        if image.shape != images[0].shape:
            raise ValueError(
                f"{file}: is {image.shape}, but {files[0].name} is {images[0].shape}; sizes must agree, or set data.size"
            )
    return Images(np.stack(images), np.array(y) if classes else None), [place.name for place in classes]


def is_image(file: Path) -> bool:
    """Whether the file's name is that of an image."""
    return file.suffix.lower() in SUFFIXES


def pictures(top: Path) -> list[Path]:
    """The image files in a folder and below it. Other files are named on standard error."""

    def refuse(error: OSError) -> None:
        raise error

    files: list[Path] = []
    for place, inner, names in os.walk(top, followlinks=True, onerror=refuse):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        if len(Path(place).relative_to(top).parts) > 20:
            raise ValueError(f"{place}: is too deep; does a link lead back to its folder?")
        files += [Path(place, name) for name in sorted(names) if not name.startswith(".")]
    others = [file for file in files if not is_image(file)]
    if others:
        print(f"{top}: skipped {len(others)} files that are no images, such as {others[0].name}", file=sys.stderr)
    return [file for file in files if is_image(file)]


def pixels(file: Path, size: int | None = None) -> np.ndarray:
    """uint8 (H, W) or (H, W, 3), upright; with a size, `reduced` to it. Raises ValueError where the file is not a readable
    image, or is smaller."""
    with picture(file) as opened:
        try:
            return array(opened) if size is None else reduced(array(opened), size)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error


def array(picture: "Picture") -> np.ndarray:
    """A PIL image as uint8 (H, W) or (H, W, 3), upright. Raises ValueError for pixels of floating point."""
    from PIL import ImageOps

    image = ImageOps.exif_transpose(picture)
    if image.mode == "F":
        raise ValueError("has floating-point pixels; save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16 bits
        return np.rint(np.asarray(image).astype(np.float64).clip(0, 65535) / 257).astype(np.uint8)
    return np.asarray(image.convert("L" if image.mode in ("L", "LA", "1") else "RGB"))


def reduced(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 (size, size, 3): the largest square in the middle of an image (H, W) or (H, W, 3), each new pixel the mean of
    the area that it covers, rounded. All sums are of integers, so the bytes are the same everywhere. Raises ValueError for
    an image that is smaller."""
    height, width = image.shape[:2]
    side = min(height, width)
    if side < size:
        raise ValueError(f"is {width}x{height}, smaller than data.size {size}; remove it, or lower the size")
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side].reshape(side, side, -1).astype(np.float64)
    new, old = np.arange(size)[:, None] * side, np.arange(side) * size  # where pixels begin, if the side is side * size
    shared = np.clip(np.minimum(new + side, old + size) - np.maximum(new, old), 0, None).astype(np.float64)
    mean = np.einsum("ij,jkc,lk->ilc", shared, square, shared, optimize=True) / side**2
    return np.floor(mean + 0.5).astype(np.uint8).repeat(3 // square.shape[2], axis=2)
