"""Images on disk: `.npz` files with x uint8 (N, H, W, C) or (N, H, W) and, if the set has classes, y (N,)."""

import hashlib
import io
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import ZipFile, ZipInfo

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from torch import Tensor

from advebm.runtime import disk

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

PIXELS = 2**25  # of a picture at most; its file says how many before they are read
BYTES, RATIO = 2**30, 20  # an array may take BYTES, or RATIO times as much as its file


@dataclass(frozen=True, eq=False)
class Images:
    """x uint8 (N, H, W, C) and y int64 (N,) class indices, or None if the set has no classes."""

    x: np.ndarray
    y: np.ndarray | None = None

    def __getitem__(self, index: slice | np.ndarray) -> "Images":
        return Images(self.x[index], None if self.y is None else self.y[index])

    def pixels(self, device: torch.device | str = "cpu") -> Tensor:
        """float32 (N, C, H, W) in [0, 1], contiguous, as pyautoattack requires."""
        return to_pixels(torch.from_numpy(self.x).to(device).permute(0, 3, 1, 2).contiguous())

    def labels(self, device: torch.device | str = "cpu") -> Tensor:
        """int64 (N,) class indices. Raises ValueError if the set has no classes."""
        if self.y is None:
            raise ValueError("this set of images has no classes: its file needs an array y")
        return torch.from_numpy(self.y).to(device)


def to_pixels(x: Tensor) -> Tensor:
    """uint8 to float32 in [0, 1]."""
    return x.float() / 255


def to_bytes(x: Tensor) -> np.ndarray:
    """float32 (N, C, H, W) to uint8 (N, H, W, C), clamped to [0, 1] and rounded to nearest."""
    return (x.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()


def check(images: Images, name: str) -> Images:
    """The images with x (N, H, W, C) and y int64. Raises ValueError with `name` and what is wrong."""
    x, y = images.x, images.y
    if x.ndim == 3:
        x = x[..., None]
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[3] not in (1, 3):
        raise ValueError(f"{name}: x must be uint8 (N, H, W) or (N, H, W, 1 or 3), not {x.dtype} {x.shape}")
    if not len(x):
        raise ValueError(f"{name}: holds no images")
    if y is not None:
        if y.shape != (len(x),) or not np.issubdtype(y.dtype, np.integer) or y.min() < 0:
            raise ValueError(f"{name}: y must be class indices (N,) for {len(x)} images, not {y.dtype} {y.shape}")
        y = y.astype(np.int64)
    return Images(x, y)


def load(path: Path) -> Images:
    """Read an `.npz` file, of `save` or of others. Raises FileNotFoundError, or ValueError with the path and the fault."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected an .npz with x uint8 (N, H, W, C)")
    try:
        with arrays(path) as file:
            assert file.zip is not None, "open"
            for member in file.zip.infolist():  # an altered name or length in the zip file's directory would hide y
                file.zip.open(member).close()  # compares the names
                if member.comment:
                    raise ValueError("the directory of the zip file was altered")
            if "x" not in file:
                raise ValueError(f"{path}: has no array x, only {', '.join(file) or 'nothing'}")
            images = Images(file["x"], file.get("y"))
            if "sha256" in file and str(file["sha256"]) != digest_arrays([("", images)]):
                raise ValueError("its images were altered, their sha256 is another")
    except Exception as error:  # a damaged file may raise zip, zlib, type, key and value errors
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: is not a readable .npz file ({error}); it may be damaged") from error
    return check(images, str(path))


@contextmanager
def arrays(path: Path) -> Iterator[NpzFile]:
    """An `.npz` file, open. Raises ValueError if one of its arrays would take far more memory than the file on the disk,
    and many kinds of errors for a file that is damaged."""
    with disk.opened(path) as stream:
        _check_size(stream)
        stream.seek(0)
        yield np.load(stream, allow_pickle=False)


def _check_size(stream: io.BufferedReader) -> None:
    most = max(BYTES, RATIO * os.fstat(stream.fileno()).st_size)
    with ZipFile(stream) as members:
        for name in filter(lambda name: name.endswith(".npy"), members.namelist()):
            with members.open(name) as member:
                header = np.lib.format.read_array_header_1_0 if np.lib.format.read_magic(member) == (1, 0) else None
                shape, _, dtype = (header or np.lib.format.read_array_header_2_0)(member)
            if math.prod(shape) * dtype.itemsize > most:
                raise ValueError(f"{name} of {shape} {dtype} would take more than {most} bytes")


@contextmanager
def picture(file: Path) -> Iterator["Picture"]:
    """An image file, open. Raises ValueError where it is not a readable image of at most PIXELS pixels, also if that is
    found in the block."""
    from PIL import Image

    try:
        with disk.opened(file) as stream, Image.open(stream) as image:
            if math.prod(image.size) > PIXELS:
                raise Image.DecompressionBombError(f"its {math.prod(image.size)} pixels exceed limit of {PIXELS}")
            yield image
    except Exception as error:  # a damaged file may raise any kind
        if str(error).startswith(str(file)):
            raise
        raise ValueError(f"{file}: is not a readable image ({error})") from error


def save(path: Path, images: Images) -> None:
    """Write an `.npz` file, with a digest of its images, whose bytes depend on the images alone. The bytes of np.savez
    depend on the version of Python too, compressed ones on that of zlib."""
    content = {"x": images.x} if images.y is None else {"x": images.x, "y": images.y}
    content["sha256"] = np.array(digest_arrays([("", images)]))
    path.parent.mkdir(parents=True, exist_ok=True)
    with ZipFile(path, "w") as file:
        for name, array in content.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=False)
            file.writestr(ZipInfo(f"{name}.npy"), member.getvalue())


def digest(path: Path) -> str:
    """sha256 of a file."""
    with disk.opened(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_arrays(sets: Iterable[tuple[str, Images]]) -> str:
    """sha256 of all images and labels, whatever their file format."""
    total = hashlib.sha256()
    for name, images in sets:
        total.update(f"{name} {images.x.shape}".encode())
        for array in (images.x, images.y):
            total.update(b"" if array is None else np.ascontiguousarray(array).data)
    return total.hexdigest()
