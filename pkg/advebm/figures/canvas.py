"""The parts that all pictures share."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})


def save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    return path


def tiled(x: np.ndarray, columns: int, gap: int = 1) -> np.ndarray:
    """One picture of the images, row by row, with a white gap between them."""
    rows = -(-len(x) // columns)
    height, width, channels = x.shape[1:]
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255, np.uint8)
    for i, image in enumerate(x):
        top, left = (i // columns) * (height + gap) + gap, (i % columns) * (width + gap) + gap
        sheet[top : top + height, left : left + width] = image
    return sheet


def show(axes: Axes, sheet: np.ndarray) -> None:
    axes.imshow(sheet.squeeze() if sheet.shape[2] == 1 else sheet, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def save_text(text: str, path: Path, title: str) -> Path:
    """A small picture of a text that says why there is no other."""
    figure, axes = plt.subplots(figsize=(3.2, 0.8))
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center")
    axes.set_title(title)
    return save(figure, path)
