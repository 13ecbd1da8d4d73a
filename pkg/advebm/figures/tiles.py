"""Sheets of images."""

from pathlib import Path

import numpy as np

from advebm.data.images import Images
from advebm.figures.canvas import plt, save, show, tiled, words


def grid(x: np.ndarray, path: Path, title: str, columns: int = 10) -> Path:
    """Images in rows, as they come."""
    sheet = tiled(x, columns)
    figure, axes = plt.subplots(figsize=(5, 5 * sheet.shape[0] / sheet.shape[1]))
    show(axes, sheet)
    axes.set_title(title)
    return save(figure, path)


def class_grid(images: Images, path: Path, title: str, columns: int = 12) -> Path:
    """A row for each class, of its first `columns` images."""
    x, y = images
    classes = np.unique(y)
    columns = min(columns, min((y == k).sum() for k in classes))
    chosen = np.concatenate([np.flatnonzero(y == k)[:columns] for k in classes])
    sheet = tiled(x[chosen], columns)
    figure, axes = plt.subplots(figsize=(5, 5 * sheet.shape[0] / sheet.shape[1]))
    show(axes, sheet)
    pitch = sheet.shape[0] / len(classes)
    axes.set_yticks([(row + 0.5) * pitch for row in range(len(classes))], [str(k) for k in classes])
    axes.set_ylabel("class asked for")
    axes.set_title(title)
    return save(figure, path)


def strip(stages: dict[str, np.ndarray], path: Path, title: str) -> Path:
    """A row for each stage of a recipe; the columns are the same images all the way down."""
    sheets = [tiled(x, len(x)) for x in stages.values()]
    figure, axes = plt.subplots(len(sheets), 1, figsize=(6, 6.6 / len(sheets[0][0]) * len(sheets[0]) * len(sheets)))
    for ax, name, sheet in zip(np.atleast_1d(axes), stages, sheets, strict=True):
        show(ax, sheet)
        ax.set_ylabel(name, rotation=0, ha="right", va="center")
    figure.suptitle(title)
    return save(figure, path)


def sheets(samples: dict[str, np.ndarray], path: Path, title: str, columns: int = 20) -> Path:
    """One row of samples for each name."""
    size = (8, 0.42 * len(samples) + 0.4)
    figure, axes = plt.subplots(len(samples), 1, figsize=size, squeeze=False, layout="constrained")
    for ax, (name, x) in zip(axes.flat, samples.items(), strict=True):
        show(ax, tiled(x[:columns], columns))
        ax.set_ylabel(name, rotation=0, ha="right", va="center")
    figure.suptitle(title)
    return save(figure, path)


def nearest(
    samples: dict[str, np.ndarray], train: np.ndarray, found: dict[str, tuple], numbers: dict, path: Path, title: str
) -> Path:
    """For each recipe a row for each sample: the sample, and the training images nearest to it by L2 and by SSIM."""
    if not samples:
        return words("no recipes", path, title)
    blocks, median = {}, {name: n["l2"]["median"] for name, n in numbers.items()}
    for name, x in samples.items():
        by_l2, by_ssim = found[name]
        blank = np.full((len(by_l2), 1, *x.shape[1:]), 255, np.uint8)
        row = np.concatenate([x[: len(by_l2), None], blank, train[by_l2], blank, train[by_ssim]], 1)
        blocks[name] = tiled(row.reshape(-1, *x.shape[1:]), row.shape[1])
    height = 5 * sum(b.shape[0] / b.shape[1] for b in blocks.values()) + 0.55 * len(blocks)
    figure, axes = plt.subplots(len(blocks), 1, figsize=(5, height), squeeze=False, layout="constrained")
    for ax, (name, block) in zip(axes.flat, blocks.items(), strict=True):
        show(ax, block)
        k = found[name][0].shape[1]
        pitch = block.shape[1] / (2 * k + 3)
        places = [0.5 * pitch, (2 + k / 2) * pitch, (3 + 1.5 * k) * pitch]
        ax.set_xticks(places, ["sample", "nearest training images by L2", "by SSIM"])
        ax.tick_params(length=0)
        ax.set_title(f"{name}: median distance {median[name]:.2f}, of test images {median['test images']:.2f}", fontsize=9)
    figure.suptitle(title)
    return save(figure, path)


def rows(blocks: dict[str, np.ndarray | None], path: Path, title: str) -> Path:
    """A block of rows for each name, of images (rows, columns, H, W, C)."""
    if not any(x is not None for x in blocks.values()):
        return words("no start" if blocks else "no recipes", path, title)
    drawn = {name: tiled(x.reshape(-1, *x.shape[2:]), x.shape[1]) for name, x in blocks.items() if x is not None}
    height = 5 * sum(sheet.shape[0] / sheet.shape[1] for sheet in drawn.values()) + 0.4 * len(drawn)
    figure, axes = plt.subplots(len(drawn), 1, figsize=(5, height), squeeze=False, layout="constrained")
    for ax, (name, sheet) in zip(axes.flat, drawn.items(), strict=True):
        show(ax, sheet)
        ax.set_title(name, fontsize=9)
    figure.suptitle(title)
    return save(figure, path)
