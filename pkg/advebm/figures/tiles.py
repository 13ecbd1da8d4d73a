"""Sheets of images."""

from pathlib import Path
from typing import Any

import numpy as np

from advebm.data.images import Images
from advebm.figures.canvas import plt, save, show, tiled


def grid(x: np.ndarray, path: Path, title: str, columns: int = 10, classes: np.ndarray | None = None) -> Path:
    """Images in rows, in their order; classes: those of the rows, to label them."""
    sheet = tiled(x, columns)
    figure, axes = plt.subplots(figsize=(5, 5 * sheet.shape[0] / sheet.shape[1]))
    show(axes, sheet)
    if classes is not None:
        pitch = sheet.shape[0] / len(classes)
        axes.set_yticks([(row + 0.5) * pitch for row in range(len(classes))], [str(k) for k in classes])
        axes.set_ylabel("class")
    axes.set_title(title)
    return save(figure, path)


def class_grid(images: Images, path: Path, title: str, columns: int = 12) -> Path:
    """A row for each class, with its first `columns` images."""
    y = images.labels().numpy()
    classes, counts = np.unique(y, return_counts=True)
    columns = min(columns, *counts)
    chosen = np.concatenate([np.flatnonzero(y == k)[:columns] for k in classes])
    return grid(images.x[chosen], path, title, columns, classes)


def strip(stages: dict[str, np.ndarray], path: Path, title: str) -> Path:
    """A row for each stage of a recipe; a column shows the stages of one image."""
    rows = {name: tiled(x, len(x)) for name, x in stages.items()}
    height, width, _ = next(iter(rows.values())).shape
    return _rows(rows, path, title, figsize=(6, 6.6 / width * height * len(rows) + 0.4), layout="constrained")


def sheets(samples: dict[str, np.ndarray], path: Path, title: str, columns: int = 20) -> Path:
    """A row of samples for each name."""
    rows = {name: tiled(x[:columns], columns) for name, x in samples.items()}
    return _rows(rows, path, title, figsize=(8, 0.42 * len(samples) + 0.4), layout="constrained")


def _rows(rows: dict[str, np.ndarray], path: Path, title: str, **options: Any) -> Path:
    figure, axes = plt.subplots(len(rows), 1, squeeze=False, **options)
    for ax, (name, sheet) in zip(axes.flat, rows.items(), strict=True):
        show(ax, sheet)
        ax.set_ylabel(name, rotation=0, ha="right", va="center")
    figure.suptitle(title)
    return save(figure, path)
