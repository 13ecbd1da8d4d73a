"""Sheets of images."""

from pathlib import Path

import numpy as np

from advebm.data.images import Images
from advebm.figures.canvas import plt, save, show, tiled


def grid(x: np.ndarray, path: Path, title: str, columns: int = 10) -> Path:
    """Images in rows, in their order."""
    sheet = tiled(x, columns)
    figure, axes = plt.subplots(figsize=(5, 5 * sheet.shape[0] / sheet.shape[1]))
    show(axes, sheet)
    axes.set_title(title)
    return save(figure, path)


def class_grid(images: Images, path: Path, title: str, columns: int = 12) -> Path:
    """A row for each class, with its first `columns` images."""
    x, y = images.x, images.labels().numpy()
    classes = np.unique(y)
    columns = min(columns, min((y == k).sum() for k in classes))
    chosen = np.concatenate([np.flatnonzero(y == k)[:columns] for k in classes])
    sheet = tiled(x[chosen], columns)
    figure, axes = plt.subplots(figsize=(5, 5 * sheet.shape[0] / sheet.shape[1]))
    show(axes, sheet)
    pitch = sheet.shape[0] / len(classes)
    axes.set_yticks([(row + 0.5) * pitch for row in range(len(classes))], [str(k) for k in classes])
    axes.set_ylabel("class")
    axes.set_title(title)
    return save(figure, path)


def strip(stages: dict[str, np.ndarray], path: Path, title: str) -> Path:
    """A row for each stage of a recipe; a column shows the stages of one image."""
    sheets = [tiled(x, len(x)) for x in stages.values()]
    figure, axes = plt.subplots(len(sheets), 1, figsize=(6, 6.6 / len(sheets[0][0]) * len(sheets[0]) * len(sheets)))
    for ax, name, sheet in zip(np.atleast_1d(axes), stages, sheets, strict=True):
        show(ax, sheet)
        ax.set_ylabel(name, rotation=0, ha="right", va="center")
    figure.suptitle(title)
    return save(figure, path)


def sheets(samples: dict[str, np.ndarray], path: Path, title: str, columns: int = 20) -> Path:
    """A row of samples for each name."""
    size = (8, 0.42 * len(samples) + 0.4)
    figure, axes = plt.subplots(len(samples), 1, figsize=size, squeeze=False, layout="constrained")
    for ax, (name, x) in zip(axes.flat, samples.items(), strict=True):
        show(ax, tiled(x[:columns], columns))
        ax.set_ylabel(name, rotation=0, ha="right", va="center")
    figure.suptitle(title)
    return save(figure, path)
