"""The parts that all pictures share."""

import io
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

SAFE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")  # Okabe and Ito 2008, without yellow
STYLES: tuple = ("-", "--", "-.", ":", (0, (6, 1)), (0, (4, 1, 1, 1, 1, 1)), (0, (1, 1)))  # of lines, also without colours
MARGIN = 0.1  # inches around a picture

plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
plt.rcParams.update({"axes.prop_cycle": plt.cycler(color=SAFE, linestyle=STYLES), "pdf.fonttype": 42})  # journals want 42


def save(figure: Figure, path: Path, *, vector: bool = False) -> Path:
    """Write a PNG file, with `vector` also a PDF file beside it, for print, and close the figure. Their bytes depend on
    the figure alone. Returns the path."""
    box = _settled(figure)
    _write(figure, box, path, dpi=110, metadata={"Software": None})
    if vector:
        _write(figure, box, path.with_suffix(".pdf"), dpi=300, metadata={"CreationDate": None})
    plt.close(figure)
    return path


def save_plot(figure: Figure, path: Path) -> Path:
    """`save` for pictures that are printed."""
    return save(figure, path, vector=True)


def _settled(figure: Figure) -> Bbox:
    """Lay it out once, with its parts at rounded places: the last digits of the layout differ from run to run. Returns what
    its parts cover, with a margin, in inches."""
    figure.draw_without_rendering()
    figure.set_layout_engine(None)
    for box in (panel.bbox_relative for panel in figure.subfigs):
        box.p0, box.p1 = np.round(box.p0, 6), np.round(box.p1, 6)
    for ax in figure.axes:
        ax.set_position(np.round(ax.get_position(original=True).bounds, 6).tolist())
        ax.set_in_layout(True)  # which set_position ends: the margins are cut by what is in the layout
    return figure.get_tightbbox().padded(MARGIN)


def _write(figure: Figure, box: Bbox, path: Path, **how: Any) -> None:
    """Draw in memory, then write: where the disk is full, matplotlib's own writing may end in an error of another kind."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix[1:], bbox_inches=box, **how)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(drawn.getvalue())


def tiled(x: np.ndarray, columns: int, gap: int = 1) -> np.ndarray:
    """One picture of the images, row by row, with a white gap between them."""
    x = np.pad(x, [(0, -len(x) % columns), (gap, 0), (gap, 0), (0, 0)], constant_values=255)
    _, height, width, channels = x.shape
    rows = x.reshape(-1, columns, height, width, channels).swapaxes(1, 2)
    sheet = rows.reshape(-1, columns * width, channels)
    return np.pad(sheet, [(0, gap), (0, gap), (0, 0)], constant_values=255)


def show(axes: Axes, sheet: np.ndarray) -> None:
    axes.imshow(sheet.squeeze() if sheet.shape[2] == 1 else sheet, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def stacked(blocks: dict[str, np.ndarray], heading: float, title: str) -> tuple[Figure, dict[str, Axes]]:
    """A figure with sheets of images below each other, with `heading` inches more for each, and the axes of each."""
    height = 5 * sum(sheet.shape[0] / sheet.shape[1] for sheet in blocks.values()) + heading * len(blocks)
    figure, axes = plt.subplots(len(blocks), 1, figsize=(5, height), squeeze=False, layout="constrained")
    for ax, sheet in zip(axes.flat, blocks.values(), strict=True):
        show(ax, sheet)
    figure.suptitle(title)
    return figure, dict(zip(blocks, axes.flat, strict=True))


def save_text(text: str, path: Path, title: str) -> Path:
    """A small picture of a text that says why there is no other."""
    figure, axes = plt.subplots(figsize=(3.2, 0.8))
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center")
    axes.set_title(title)
    return save_plot(figure, path)
