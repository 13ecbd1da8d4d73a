import hashlib
import math
import pickle
import re
from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from advebm.commands.prepare import prepare
from advebm.commands.sources import digest
from advebm.data import attributes, sources
from advebm.data import images as im
from advebm.data.batches import Augmentation, Batches
from advebm.data.gaussians import Gaussians
from advebm.data.images import Images
from advebm.data.prepared import about, load
from advebm.evaluation.subject import Subject
from advebm.vision import datasets


def test_digits_are_scikit_learns(tmp_path):
    content = sources.labelled("digits", tmp_path)["all"]
    assert content.x.shape == (1797, 8, 8, 1) and content.x.max() == 255
    from sklearn.datasets import load_digits

    assert np.abs(content.x.squeeze() / 255 - load_digits().images / 16).max() < 1 / 500


def test_prepare_splits_by_class_and_always_alike(tmp_path):
    for name in "ab":
        prepare(tmp_path / name, study="tiny")
    read = {name: im.load(tmp_path / "a" / f"{name}.npz") for name in ("train", "validation", "test")}
    assert [len(s.x) for s in read.values()] == [1597, 100, 100]
    assert all(np.bincount(s.y).min() > 0.08 * len(s.x) for s in read.values())
    rows = {row.tobytes() for s in read.values() for row in s.x}
    everything = {row.tobytes() for row in sources.labelled("digits", tmp_path)["all"].x}
    assert rows == everything
    for file in (tmp_path / "a").rglob("*"):
        if file.is_file():
            assert file.read_bytes() == (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes()


def test_labels_by_ink_are_thirds_of_the_training_images():
    """By hand: the edges are the quantiles at 5/3 and 10/3 of 0 to 5, 10 + 50/3 and 10 + 100/3. One image is mixed."""

    def of(*values):
        return Images(np.stack([np.full((2, 2, 1), value, np.uint8) for value in values]))

    train, test = of(60, 10, 30, 20, 50, 40), of(0, 26, 27, 43, 44, 255)
    train.x[2] = np.array([0, 0, 20, 100], np.uint8).reshape(2, 2, 1)  # 30 in the mean
    edges = attributes.thirds(train)
    assert edges == pytest.approx([80 / 3, 130 / 3])
    assert attributes.by_ink(train, edges).y.tolist() == [2, 0, 1, 0, 2, 1]
    assert attributes.by_ink(test, edges).y.tolist() == [0, 0, 1, 1, 2, 2]
    assert attributes.by_ink(of(20, 21), [20.0, 40.0]).y.tolist() == [0, 1], "at an edge, the lower"


def test_a_study_of_ink_has_the_images_of_the_study_of_classes(tmp_path):
    for study in ("digits", "digits-ink"):
        prepare(tmp_path / study, study=study, quiet=True)
    described = about(tmp_path / "digits-ink")
    assert described["classes"] == 3 and "ink" not in about(tmp_path / "digits")
    for split in ("train", "validation", "test"):
        digits, inked = (im.load(tmp_path / study / f"{split}.npz") for study in ("digits", "digits-ink"))
        assert np.array_equal(digits.x, inked.x)
        means = inked.x.reshape(len(inked.x), -1).mean(1)
        assert np.array_equal(inked.y, (means > described["ink"][0]) + 1 * (means > described["ink"][1]))
    assert np.abs(np.bincount(im.load(tmp_path / "digits-ink/train.npz").y) - 1000 / 3).max() < 10


def test_outside_sets(images, tmp_path):
    own = {"train": images[:20], "test": images[20:]}

    def outside(name, count, split="test", seed=0):
        return sources.outside(name, tmp_path, own, split, count, seed)

    a, b = (outside("photographs:china", 9) for _ in "ab")
    assert a.x.shape == (9, 4, 4, 1) and np.array_equal(a.x, b.x)
    assert not np.array_equal(a.x, outside("photographs:flower", 9).x)
    for split in own:  # training outliers are never made from test images
        inverted = outside("inverted", 60, split).x
        assert {(255 - x).tobytes() for x in inverted} == {x.tobytes() for x in own[split].x}
    uniform = outside("uniform", 500).x
    assert abs(uniform.mean() - 127.5) < 3


def test_outliers_are_of_the_sources_train_split(images, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "labelled", lambda name, root, size: {"train": images[:20], "test": images[20:]})
    for split, there in (("train", images[:20]), ("test", images[20:])):
        drawn = sources.outside("cifar100", tmp_path, {split: images}, split, 60, 0)
        assert {x.tobytes() for x in drawn.x} == {x.tobytes() for x in there.x}


def test_pixels_and_bytes_are_inverse(images):
    assert np.array_equal(im.to_bytes(images.pixels()), images.x)
    assert im.to_bytes(torch.tensor([-1.0, 2.0]).view(1, 1, 1, 2)).flatten().tolist() == [0, 255]


def cifar(root, name="CIFAR10", n=6):
    """A small CIFAR in torchvision's layout, and the file lists with md5 sums that torchvision would have for it."""
    kind = getattr(datasets, name)
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    sums = {}
    for i, (file, _) in enumerate([*kind.train_list, *kind.test_list]):
        x = rng.integers(0, 256, (n, 3072), dtype=np.uint8)
        content = pickle.dumps({"data": x, "labels": [(i + j) % 10 for j in range(n)], "fine_labels": list(range(n))})
        (folder / file).write_bytes(content)
        sums[file] = hashlib.md5(content).hexdigest()
    lists = [[(file, sums[file]) for file, _ in files] for files in (kind.train_list, kind.test_list)]
    return folder, lists


def test_cifar_is_read_only_after_its_md5_matches(tmp_path, monkeypatch):
    folder, (train, test) = cifar(tmp_path)
    with pytest.raises(ValueError, match="data_batch_1: md5 does not match"):
        sources.labelled("cifar10", tmp_path)
    monkeypatch.setattr(datasets.CIFAR10, "train_list", train)
    monkeypatch.setattr(datasets.CIFAR10, "test_list", test)
    content = sources.labelled("cifar10", tmp_path)
    assert content["train"].x.shape == (30, 32, 32, 3) and content["test"].y.tolist() == [5, 6, 7, 8, 9, 0]
    raw = pickle.loads((folder / "data_batch_2").read_bytes())["data"][1]
    assert np.array_equal(content["train"].x[7], raw.reshape(3, 32, 32).transpose(1, 2, 0))
    (folder / "data_batch_3").unlink()
    with pytest.raises(FileNotFoundError, match="lacks data_batch_3"):
        sources.labelled("cifar10", tmp_path)


def test_svhn_is_read_from_mat(tmp_path, monkeypatch):
    x = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 5), dtype=np.uint8)
    savemat(tmp_path / "test_32x32.mat", {"X": x, "y": np.array([[1], [10], [3], [4], [5]])})
    md5 = hashlib.md5((tmp_path / "test_32x32.mat").read_bytes()).hexdigest()
    monkeypatch.setitem(datasets.SVHN.split_list, "test", ("", "test_32x32.mat", md5))
    content = sources.labelled("svhn", tmp_path)["test"]
    assert content.y.tolist() == [1, 0, 3, 4, 5] and np.array_equal(content.x[2], x[..., 2])


def test_folders_and_npz(tmp_path):
    for name, level in (("cat/b", 10), ("cat/a", 20), ("dog/c", 30)):
        file = tmp_path / "pets" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((5, 6, 3), level, np.uint8)).save(file)
    content = sources.labelled("folder:pets", tmp_path)["all"]
    assert (
        content.x.shape == (3, 5, 6, 3)
        and content.x[:, 0, 0, 0].tolist() == [20, 10, 30]
        and content.y.tolist() == [0, 0, 1]
    )
    np.savez(tmp_path / "gray.npz", x=np.zeros((4, 5, 5), np.uint8))
    assert sources.labelled("npz:gray.npz", tmp_path)["all"].x.shape == (4, 5, 5, 1)


def picture(file, content, **more):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(content).save(file, **more)


def test_folders_have_hidden_names_links_and_other_files(tmp_path, capsys):
    grey = np.full((4, 6), 7, np.uint8)
    for name in ("pets/.ipynb_checkpoints/x.png", "pets/b/.thumb.png", "pets/b/1.png", "pets/b/2.TIF", "far/a/3.bmp"):
        picture(tmp_path / name, grey)
    (tmp_path / "pets/a").symlink_to(tmp_path / "far/a")
    (tmp_path / "pets/b/notes.txt").write_text("of a camera")
    content = sources.labelled("folder:pets", tmp_path)["all"]
    assert content.y.tolist() == [0, 1, 1] and content.x.shape == (3, 4, 6, 1)
    assert "b: skipped 1 files that are no images, such as notes.txt" in capsys.readouterr().err
    (tmp_path / "pets/c").mkdir()
    with pytest.raises(ValueError, match="pets/c: holds no images"):
        sources.labelled("folder:pets", tmp_path)
    (tmp_path / "pets/c").rmdir()
    picture(tmp_path / "pets/top.png", grey)
    with pytest.raises(ValueError, match="pets: holds images beside its sub-folders"):
        sources.labelled("folder:pets", tmp_path)
    (tmp_path / "loop/a").mkdir(parents=True)
    (tmp_path / "loop/a/again").symlink_to(tmp_path / "loop")
    with pytest.raises(ValueError, match="does a link lead back"):
        sources.labelled("folder:loop", tmp_path)


def test_the_digest_of_a_source_is_of_its_files_and_their_names(tmp_path):
    file, seen = tmp_path / "pets/a/1.png", []
    for level in (7, 8):
        picture(file, np.full((4, 6), level, np.uint8))
        seen.append(digest("folder:pets", tmp_path))
    file.rename(tmp_path / "pets/a/2.png")
    seen.append(digest("folder:pets", tmp_path))
    (tmp_path / "pets/a/.hidden.png").write_bytes(b"")
    assert digest("folder:pets", tmp_path) == seen[-1] and len(set(seen)) == 3
    (tmp_path / "pets").rename(tmp_path / "elsewhere")
    assert digest("folder:elsewhere", tmp_path) == seen[-1]
    assert digest("digits", tmp_path) is None
    with pytest.raises(FileNotFoundError, match="pets: not there, but folder:pets is a source of the study"):
        digest("folder:pets", tmp_path)


def test_sub_folders_train_and_test_are_splits(tmp_path):
    for i, name in enumerate(("train/a/1", "train/b/2", "train/b/3", "test/a/4", "test/b/5")):
        picture(tmp_path / "set" / f"{name}.png", np.full((3, 3), i, np.uint8))
    content = sources.labelled("folder:set", tmp_path)
    assert content["train"].y.tolist() == [0, 1, 1] and content["test"].x[:, 0, 0, 0].tolist() == [3, 4]
    picture(tmp_path / "set/test/c/6.png", np.zeros((3, 3), np.uint8))
    with pytest.raises(ValueError, match="train and test must have the same sub-folders"):
        sources.labelled("folder:set", tmp_path)


def area_mean(square, size):
    """Slowly, in fractions: each new pixel is the mean of the area that it covers, halves rounded up."""
    side = len(square)
    scale, found = Fraction(side, size), np.empty((size, size), np.uint8)
    edges = [i * scale for i in range(size + 1)]

    def parts(i):
        return [(j, min(edges[i + 1], j + 1) - max(edges[i], j)) for j in range(int(edges[i]), math.ceil(edges[i + 1]))]

    for i, k in np.ndindex(size, size):
        total = sum(a * b * int(square[j, m]) for j, a in parts(i) for m, b in parts(k))
        found[i, k] = math.floor(total / scale**2 + Fraction(1, 2))
    return found


@pytest.mark.parametrize(("shape", "size"), [((9, 12), 4), ((8, 8), 4), ((7, 5), 5), ((11, 6), 1), ((13, 10), 7)])
def test_images_of_any_size_are_cropped_and_reduced_by_area(tmp_path, shape, size):
    rng = np.random.default_rng(size)
    color, grey = rng.integers(0, 256, (*shape, 3), dtype=np.uint8), rng.integers(0, 256, shape, dtype=np.uint8)
    picture(tmp_path / "set/cat/1.png", color)
    picture(tmp_path / "set/cat/2.png", grey)
    side, (top, left) = min(shape), ((extent - min(shape)) // 2 for extent in shape)
    wanted = [np.stack([area_mean(c[top : top + side, left : left + side], size) for c in rows], -1)
              for rows in (color.transpose(2, 0, 1), [grey] * 3)]  # fmt: skip
    content = sources.labelled("folder:set", tmp_path, size)["all"]
    assert np.array_equal(content.x, wanted) and content.y.tolist() == [0, 0], "one class"
    outside = sources.outside("folder:set", tmp_path, {"train": content}, "train", 2, 0, size)
    assert outside.x.sum() == content.x.sum()
    assert sources.shape("folder:not-there", tmp_path, size) == content.x.transpose(0, 3, 1, 2).shape[1:]
    with pytest.raises(ValueError, match=rf"1\.png: is {shape[1]}x{shape[0]}, smaller than data\.size 14"):
        sources.labelled("folder:set", tmp_path, 14)


def test_a_study_of_one_class_is_prepared_from_images_of_any_size(tmp_path):
    rng = np.random.default_rng(0)
    for folder, count in (
        *(("celeba-hq/faces", 200), ("afhq-cat/train/cat", 2), ("afhq-cat/test/cat", 60)),
        *(("tiny-imagenet-200/train/one", 40), ("tiny-imagenet-200/train/two", 60), ("tiny-imagenet-200/val/images", 70)),
    ):
        for i in range(count):
            shape = (*rng.integers(16, 30, 2), *([3] if i % 5 else []))
            picture(tmp_path / "raw" / folder / f"{i}.png", rng.integers(0, 256, shape, dtype=np.uint8))
    prepare(tmp_path / "data", study="faces-smoke", params=Path("params.yaml"), root=tmp_path / "raw", quiet=True)
    described = about(tmp_path / "data")
    assert (described["shape"], described["classes"]) == ([3, 16, 16], 1)
    outside = {
        "outliers": 80,
        "out/imagenet": 60,
        "out/cats": 60,
        "out/uniform": 60,
    }  # as many as asked for, or as training has
    assert described["images"] == {"train": 80, "validation": 60, "test": 60} | outside


def test_pixels_keep_their_brightness_and_photographs_stand_upright(tmp_path):
    levels = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    picture(tmp_path / "deep/1.png", levels)
    picture(tmp_path / "deep/2.tif", levels)
    x = sources.labelled("folder:deep", tmp_path)["all"].x
    assert np.array_equal(x[0, :, :, 0], np.arange(256).reshape(16, 16)) and np.array_equal(x[0], x[1])
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    picture(tmp_path / "turned/1.png", np.arange(6, dtype=np.uint8).reshape(2, 3), exif=exif)
    upright = sources.labelled("folder:turned", tmp_path)["all"].x[0, :, :, 0]
    assert np.array_equal(upright, np.rot90(np.arange(6).reshape(2, 3), -1))
    picture(tmp_path / "float/1.tif", np.zeros((3, 3), np.float32))
    with pytest.raises(ValueError, match=r"1\.tif: has floating-point pixels"):
        sources.labelled("folder:float", tmp_path)


def test_sets_of_an_earlier_preparation_are_not_measured(tmp_path):
    params = tmp_path / "params.yaml"
    for out in ("a", "b"):
        sets = f"{{photographs: null, uniform: null, {out}: uniform}}"
        params.write_text(Path("params.yaml").read_text() + f"mine: {{like: tiny, data: {{out: {sets}}}}}\n")
        prepare(tmp_path / "data", study="mine", params=params, root=tmp_path, quiet=True)
    given = {"method": "at", "name": "at", "model": tmp_path, "data": tmp_path / "data", "recipes": {}, "count": 10}
    with pytest.raises(ValueError, match=r"the study has .'a': 'uniform'.; run"):
        _ = Subject(**given, out={"a": "uniform"}).outside
    subject = Subject(**given, out={"b": "uniform"})
    assert list(subject.outside) == ["b"] and not (tmp_path / "data/out/a.npz").exists()


def test_images_that_prepare_did_not_write_last_are_refused(tmp_path, monkeypatch):
    data, params = tmp_path / "data", tmp_path / "params.yaml"
    params.write_text(Path("params.yaml").read_text() + "mine: {like: tiny, data: {test: 300}}\n")
    prepare(data, study="tiny", params=params, quiet=True)
    train, uniform = data / "train.npz", data / "out/uniform.npz"
    for file in (train, uniform):
        before = file.read_bytes()
        content = im.load(file)
        im.save(file, im.Images(255 - content.x, content.y))
        with pytest.raises(ValueError, match="its images are not those that"):
            load(data, "train")
        file.write_bytes(before)
    load(data, "train")
    uniform.with_name("more.npz").write_bytes(before)
    with pytest.raises(ValueError, match=r"about\.json: has no out/more; run `advebm prepare` again"):
        load(data, "out/more")
    read = []
    monkeypatch.setattr(im, "load", lambda path, load=im.load: read.append(path) or load(path))
    load(data, "train")
    assert read == [train], "files that have not changed are not read twice"
    monkeypatch.undo()

    def killed(path, images, save=im.save):
        if path.name == "validation.npz":
            raise KeyboardInterrupt
        save(path, images)

    monkeypatch.setattr(im, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare(data, study="mine", params=params, quiet=True)
    assert len(im.load(train).x) == 1397
    with pytest.raises(FileNotFoundError, match=r"about\.json: not there; `advebm prepare` makes it"):
        load(data, "train")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, 2, 3, 4], "labels must be 0 to K - 1, each with images; npz:own.npz has 1, 2, 3, 4"),
        ([0, 1, 2, 255], "0, 1, 2, 255"),
    ],
)
def test_labels_that_would_make_dead_classes_are_refused(tmp_path, labels, message):
    x = np.random.default_rng(0).integers(0, 256, (400, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "own.npz", x=x, y=np.resize(labels, 400))
    params = tmp_path / "params.yaml"
    params.write_text(Path("params.yaml").read_text() + "mine: {like: tiny, data: {source: 'npz:own.npz'}}\n")
    with pytest.raises(ValueError, match=re.escape(message)):
        prepare(tmp_path / "out", study="mine", params=params, root=tmp_path, quiet=True)
    assert not (tmp_path / "out").exists()


def test_compositions_of_classes_that_are_not_there_are_refused_at_once(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (400, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "own.npz", x=x, y=np.arange(400) % 2)
    params = tmp_path / "params.yaml"
    params.write_text(Path("params.yaml").read_text() + "mine: {like: digits, data: {source: 'npz:own.npz', test: 100}}\n")
    message = "mine.applications.compositions: '3 or 8' has 3; classes are 0 to 1"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        prepare(tmp_path / "out", study="mine", params=params, root=tmp_path, quiet=True)
    assert not (tmp_path / "out").exists()


def test_saved_images_are_the_same_bytes_by_every_python(tmp_path):
    content = Images(np.arange(48, dtype=np.uint8).reshape(4, 2, 2, 3), np.arange(4))
    im.save(tmp_path / "a.npz", content)
    with np.load(tmp_path / "a.npz") as file:
        assert np.array_equal(file["x"], content.x) and np.array_equal(file["y"], content.y)
    assert im.digest(tmp_path / "a.npz") == "574111d6d7cba51a14b3ad0eb51c206a8ae33258ec53f1c75c007201b33b0f38"


def test_augmentation_is_crops_flips_and_noise_of_the_image(streams):
    x = streams(200).uniform(1, 5, 5)
    out = Augmentation(pad=1, flip=True)(x, streams(200, seed=1))
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="reflect")
    seen = set()
    for image, source in zip(out, padded, strict=True):
        for row, column, flip in product(range(3), range(3), (False, True)):
            crop = source[:, row : row + 5, column : column + 5]
            if torch.equal(image, crop.flip(2) if flip else crop):
                seen.add((row, column, flip))
                break
        else:
            pytest.fail("an augmented image is none of the 18 possible crops and flips")
    assert len(seen) == 18
    noisy = Augmentation(noise=0.1)(x, streams(200))
    assert abs((noisy - x).std() - 0.1) < 0.005


def test_padding_has_the_given_value(streams):
    """Each image is one of torchvision's crops, as `RandomCrop(padding=1, fill=...)` draws them."""
    from advebm.vision import transforms

    x = streams(100).uniform(1, 5, 5)
    for fill in (0.0, 0.473):
        out = Augmentation(pad=1, fill=fill)(x, streams(100, seed=1))
        padded = transforms.functional.pad(x, 1, fill=fill)
        places = list(product(range(3), range(3)))
        crops = [transforms.functional.crop(padded, row, column, 5, 5) for row, column in places]
        equal = torch.stack([(crop == out).flatten(1).all(1) for crop in crops])
        assert equal.any(0).all() and equal.any(1).all()


def test_batches_are_a_function_of_seed_and_step(images):
    def batches(seed):
        return Batches(images, 16, Augmentation(pad=1, noise=0.1), seed, "cpu")

    a, b, c = batches(0), batches(0), batches(1)
    for step in (0, 5, 2, 4):  # in any order
        assert torch.equal(a(step).x, b(step).x) and torch.equal(a(step).y, b(step).y)
        assert not torch.equal(a(step).x, c(step).x)
    plain = Batches(images, 20, Augmentation(), 0, "cpu")
    epoch = torch.cat([plain(step).x for step in range(3)])
    assert {x.numpy().tobytes() for x in epoch} == {x.numpy().tobytes() for x in images.pixels()}
    with pytest.raises(ValueError, match="batch of 61 is larger"):
        Batches(images, 61, Augmentation(), 0, "cpu")


def test_outliers_come_beside_the_images(images):
    out = Images(255 - images.x[:40])
    with_out, without = (Batches(images, 20, Augmentation(flip=True), 0, "cpu", o) for o in (out, None))
    assert torch.equal(with_out(1).x, without(1).x) and without(1).x_out is None
    epoch = torch.cat([with_out(step).x_out for step in range(2)])
    flips = {v.numpy().tobytes() for x in out.pixels() for v in (x, x.flip(2))}
    assert epoch.shape == (40, 1, 4, 4) and {x.numpy().tobytes() for x in epoch} <= flips
    with pytest.raises(ValueError, match="larger than the set of 10 images"):
        Batches(images, 20, Augmentation(), 0, "cpu", out[:10])


def test_other_images_are_drawn_apart(images):
    """As by JEM's two loaders: an epoch of x_other is the set too, in another order; x and y are as without it."""
    both, alone = (Batches(images, 20, Augmentation(noise=0.1), 0, "cpu", other=other) for other in (True, False))
    assert torch.equal(both(1).x, alone(1).x) and torch.equal(both(1).y, alone(1).y) and alone(1).x_other is None
    draws = Batches(images, 20, Augmentation(), 0, "cpu", other=True)
    batches = [draws(step) for step in range(3)]
    whole, other = (torch.cat(parts) for parts in ([b.x for b in batches], [b.x_other for b in batches]))
    assert {x.numpy().tobytes() for x in other} == {x.numpy().tobytes() for x in whole}
    assert not torch.equal(whole, other)
    again = Batches(images, 20, Augmentation(), 0, "cpu", other=True)
    assert torch.equal(again(2).x_other, batches[2].x_other)


@pytest.mark.parametrize(("fill", "pixel"), [(0.0, 0), (0.473, 121)])
def test_autoaugment_is_torchvisions_on_each_image(streams, fill, pixel):
    """Compared with torchvision's own operations on each image alone, with the same random draws."""
    from advebm.data.autoaugment import autoaugment
    from advebm.vision import transforms

    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (60, 3, 16, 16), dtype=np.uint8))
    found = autoaugment(pixels.float() / 255, streams(60), fill)
    again = autoaugment(pixels[7:9].float() / 255, streams(60)[torch.tensor([7, 8])], fill)
    assert torch.equal(found[7:9], again)  # independent of the batch
    theirs, draws = transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10, fill=[pixel] * 3), streams(60)
    policy, chance, sign = draws.integers(25, 1), draws.uniform(2), draws.integers(2, 2)
    changed = 0
    for i in range(60):
        theirs.get_params = lambda _, i=i: (policy[i].item(), chance[i], sign[i])
        expected = theirs(pixels[i]).float() / 255
        assert torch.equal(found[i], expected)
        changed += not torch.equal(expected, pixels[i].float() / 255)
    assert 40 < changed < 60 and len(policy.unique()) > 15


def test_cutout_is_a_grey_square(streams):
    x = torch.rand(200, 1, 12, 12) * 0.4
    cut = Augmentation(cutout=4)(x, streams(200)) == 0.5
    assert torch.equal(Augmentation(cutout=4, fill=0.473)(x, streams(200)) == 0.473, cut)
    assert cut.flatten(1).sum(1).max() == 16 and cut.flatten(1).sum(1).min() >= 4  # smaller at an edge
    assert cut.any(0).all()
    rows, columns = cut.any(3), cut.any(2)
    assert torch.equal(cut, rows[..., None] & columns[:, :, None])


def test_gaussians_have_the_images_mean_and_covariance(images, tmp_path, streams):
    fitted = Gaussians.fit(images, ridge=0.01)
    for k in range(3):
        x = images[images.y == k].pixels().flatten(1).double().numpy()
        covariance = np.cov(x, rowvar=False, bias=True) + 0.01 * np.eye(16)
        factor = fitted.factor[k].double().numpy()
        assert np.allclose(fitted.mean[k], x.mean(0), atol=1e-6) and np.allclose(factor @ factor.T, covariance, atol=1e-6)
    fitted.save(tmp_path / "g.safetensors")
    read = Gaussians.load(tmp_path / "g.safetensors")
    y = torch.arange(300) % 3
    assert torch.equal(read.sample(y, streams(300)), fitted.sample(y, streams(300)))
    read.factor *= 0.1  # so that hardly any sample is clamped
    x = read.sample(torch.zeros(20000, dtype=torch.long), streams(20000)).flatten(1)
    assert torch.allclose(x.mean(0), fitted.mean[0], atol=0.005)
    assert torch.allclose(x.T.cov(), 0.01 * fitted.factor[0] @ fitted.factor[0].T, atol=5e-5)
    cold = read.sample(torch.zeros(20000, dtype=torch.long), streams(20000), 0.5).flatten(1)  # the same draws, half as far
    inside = ((x > 0) & (x < 1)).all(1)
    assert torch.allclose(cold[inside] - read.mean[0], 0.5 * (x[inside] - read.mean[0]), atol=1e-6) and inside.sum() > 9000


def test_leading_components_are_those_of_numpys_eigenvectors(images, streams):
    fitted = Gaussians.fit(images, ridge=0.01)
    found = fitted.leading(variance=0.6, spread=0.5)
    for k in range(3):
        values, vectors = np.linalg.eigh((fitted.factor[k] @ fitted.factor[k].T).double().numpy())
        values, vectors = values[::-1], vectors[:, ::-1]
        count = int(np.argmax(np.cumsum(values) / values.sum() >= 0.6)) + 1
        assert 1 < count < 16 and np.linalg.matrix_rank(found.factor[k].numpy(), tol=1e-4) == count
        kept = 0.25 * (vectors[:, :count] * values[:count]) @ vectors[:, :count].T
        assert np.allclose((found.factor[k] @ found.factor[k].T).numpy(), kept, atol=1e-5)
    y = torch.arange(6) % 3
    means = fitted.leading(spread=0.0).sample(y, streams(6)).flatten(1)
    assert torch.allclose(means, fitted.mean[y], atol=1e-6)


def test_gaussians_need_every_class(images, tmp_path):
    with pytest.raises(ValueError, match="class 1 has no training images"):
        Gaussians.fit(images[images.y != 1], ridge=0.01)
    with pytest.raises(FileNotFoundError, match="advebm gaussians"):
        Gaussians.load(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match="not a readable file"):
        Gaussians.load(tmp_path / "bad.safetensors")


def test_the_shape_of_a_source_is_known_or_read(tmp_path):
    im.save(tmp_path / "mine.npz", Images(np.zeros((4, 5, 6, 3), np.uint8), np.arange(4)))
    for name in ("digits", "npz:mine.npz"):
        height, width, channels = next(iter(sources.labelled(name, tmp_path).values())).x.shape[1:]
        assert sources.shape(name, tmp_path) == (channels, height, width)
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        sources.shape("npz:none.npz", tmp_path)
