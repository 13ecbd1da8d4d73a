"""Images and classes as a user gives them: tensors, arrays, PIL images, one or several; folders and .npz files."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
import torch
from torch import Tensor

from advebm.data import folders
from advebm.data.images import Images, load, to_pixels

if TYPE_CHECKING:
    from PIL.Image import Image

One: TypeAlias = Union[Tensor, np.ndarray, "Image"]
Given: TypeAlias = One | Sequence[One]
Labels: TypeAlias = int | Sequence[int] | np.ndarray | Tensor


class WrongShape(ValueError):
    """Images are not of the shape that they must have."""


INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def pixels(x: Given, shape: Sequence[int]) -> Tensor:
    """float32 (N, C, H, W) in [0, 1], of the shape (C, H, W), on the device of x. Channels may also come last; of gray
    images they may be absent, and a single one is repeated for colour. Raises ValueError for others."""
    if isinstance(x, list | tuple):
        if not x:
            raise ValueError("there are no images")
        parts = [pixels(one, shape) for one in x]
        return torch.cat([part.to(parts[0].device) for part in parts])
    given: Any = x
    x = folders.array(given) if type(given).__module__.startswith("PIL.") else given
    if isinstance(x, np.ndarray) and x.dtype.kind in "fiub":
        x = torch.from_numpy(np.array(x, x.dtype.newbyteorder("="), order="C"))  # a copy may be written to
    if not isinstance(x, Tensor):
        kind = f"an array of {x.dtype}" if isinstance(x, np.ndarray) else type(x).__name__
        raise ValueError(f"images must be torch tensors, numpy arrays or PIL images, or a list of them, not {kind}")
    laid = _channels_first(x.detach(), *shape)
    if laid is None:
        raise WrongShape(
            f"images must be {[*shape]} (channels, height, width), also with the channels last, one or several, "
            f"not {[*x.shape]}"
        )
    if not laid.numel():
        raise ValueError("there are no images")
    laid = laid.reshape(-1, *laid.shape[-3:]).expand(-1, shape[0], -1, -1)
    if x.dtype == torch.uint8:
        return to_pixels(laid)
    if not x.is_floating_point():
        raise ValueError(f"images must be uint8 from 0 to 255, or floats in [0, 1], not {x.dtype}")
    low, high = laid.min().item(), laid.max().item()
    if not (low >= 0 and high <= 1):
        raise ValueError(f"images of floats must be in [0, 1], not in [{low:.4g}, {high:.4g}]; only uint8 may be 0 to 255")
    return laid.float()


def _channels_first(x: Tensor, channels: int, height: int, width: int) -> Tensor | None:
    """x as (..., C, H, W), where C may be 1 for colour; None if it is not of this shape."""
    if x.ndim == 2 or (channels == 1 and x.ndim == 3 and x.shape[0] != 1 and x.shape[1:] == (height, width)):
        x = x.unsqueeze(-3)
    if x.ndim not in (3, 4):
        return None
    for c in (channels, 1):
        if x.shape[-3:] == (c, height, width):
            return x
        if x.shape[-3:] == (height, width, c):
            return x.movedim(-1, -3)
    return None


def labels(y: Labels, classes: int, count: int | None = None) -> Tensor:
    """int64 class indices: `count` of them, where a single one is meant for all, or as many as there are. Raises ValueError
    where there are others."""
    try:
        found = torch.as_tensor(y)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"classes must be integers ({error})") from error
    if found.dtype not in INTEGERS or found.ndim > 1 or not found.numel():
        raise ValueError(f"classes must be integers, one or one for each image, not {found.dtype} {[*found.shape]}")
    if found.ndim == 0:
        found = found.expand(count or 1)
    if count not in (None, len(found)):
        raise ValueError(f"there must be a class for each image: {len(found)} classes for {count} images")
    if found.min() < 0 or found.max() >= classes:
        raise ValueError(f"classes must be 0 to {classes - 1}, not {found.min()} to {found.max()}")
    return found.long()


def read(place: Path) -> tuple[Images, list[str]]:
    """The images of a folder and all folders below it, or of an .npz file, and their names: paths within the folder, or
    numbers. Where some are in colour, gray ones get three channels. Raises FileNotFoundError, or ValueError with the file
    that is wrong."""
    if place.is_file():
        images = load(place)
        return images, [str(i) for i in range(len(images.x))]
    if not place.is_dir():
        raise FileNotFoundError(f"{place}: no such folder of images, or .npz file with x uint8 (N, H, W, C)")
    files = folders.pictures(place)
    if not files:
        raise ValueError(f"{place}: holds no images ({', '.join(folders.SUFFIXES)})")
    found = [image[..., None] if image.ndim == 2 else image for image in map(folders.pixels, files)]
    for image, file in zip(found, files, strict=True):
        if image.shape[:2] != found[0].shape[:2]:
            height, width = found[0].shape[:2]
            raise ValueError(f"{file}: is {image.shape[0]}x{image.shape[1]}, others {height}x{width}; sizes must agree")
    channels = max(image.shape[2] for image in found)
    x = np.stack([np.broadcast_to(image, (*image.shape[:2], channels)) for image in found])
    return Images(x), [file.relative_to(place).as_posix() for file in files]
