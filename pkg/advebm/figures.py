"""Pictures. The only file that knows matplotlib. Arrays of images are uint8 (N, H, W, C)."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from advebm.data.images import Images

plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "advebm"})


def _save(figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    return path


def _tiled(x: np.ndarray, columns: int, gap: int = 1) -> np.ndarray:
    """One picture of the images, row by row, with a white gap between them."""
    rows = -(-len(x) // columns)
    height, width, channels = x.shape[1:]
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255, np.uint8)
    for i, image in enumerate(x):
        top, left = (i // columns) * (height + gap) + gap, (i % columns) * (width + gap) + gap
        sheet[top : top + height, left : left + width] = image
    return sheet


def _show(axes, sheet: np.ndarray) -> None:
    axes.imshow(sheet.squeeze() if sheet.shape[2] == 1 else sheet, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def grid(x: np.ndarray, path: Path, title: str, columns: int = 10) -> Path:
    """Images in rows, as they come."""
    sheet = _tiled(x, columns)
    figure, axes = plt.subplots(figsize=(5, 5 * sheet.shape[0] / sheet.shape[1]))
    _show(axes, sheet)
    axes.set_title(title)
    return _save(figure, path)


def class_grid(images: Images, path: Path, title: str, columns: int = 12) -> Path:
    """A row for each class, of its first `columns` images."""
    x, y = images
    classes = [k for k in np.unique(y) if (y == k).sum() >= 1]
    columns = min(columns, min((y == k).sum() for k in classes))
    chosen = np.concatenate([np.flatnonzero(y == k)[:columns] for k in classes])
    sheet = _tiled(x[chosen], columns)
    figure, axes = plt.subplots(figsize=(5, 5 * sheet.shape[0] / sheet.shape[1]))
    _show(axes, sheet)
    pitch = sheet.shape[0] / len(classes)
    axes.set_yticks([(row + 0.5) * pitch for row in range(len(classes))], [str(k) for k in classes])
    axes.set_ylabel("class asked for")
    axes.set_title(title)
    return _save(figure, path)


def strip(stages: dict[str, np.ndarray], path: Path, title: str) -> Path:
    """A row for each stage of a recipe; the columns are the same images all the way down."""
    sheets = [_tiled(x, len(x)) for x in stages.values()]
    figure, axes = plt.subplots(len(sheets), 1, figsize=(6, 6.6 / len(sheets[0][0]) * len(sheets[0]) * len(sheets)))
    for ax, name, sheet in zip(np.atleast_1d(axes), stages, sheets, strict=True):
        _show(ax, sheet)
        ax.set_ylabel(name, rotation=0, ha="right", va="center")
    figure.suptitle(title)
    return _save(figure, path)


def curves(table: dict[str, list[float]], path: Path, title: str) -> Path:
    """Every column of training's record against the step, a panel for each name after the slash."""
    names = sorted({name.split("/")[1] for name in table if "/" in name})
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.2 * columns, 2.3 * rows), squeeze=False, layout="constrained")
    for ax in axes.flat[len(names) :]:
        ax.set_visible(False)
    for ax, name in zip(axes.flat, names, strict=False):
        for column in (c for c in table if c.endswith(f"/{name}")):
            ax.plot(table["step"], table[column], label=column.split("/")[0])
        ax.set_title(name)
        ax.legend(frameon=False)
        ax.set_xlabel("step")
    figure.suptitle(title)
    return _save(figure, path)


def detection(values: dict[str, dict[str, np.ndarray]], numbers: dict[str, dict], path: Path, title: str) -> Path:
    """A column for each out-distribution set: -E(x) of in, out and moved out images, and the ROC curves."""
    from sklearn.metrics import roc_curve

    figure, axes = plt.subplots(2, len(values), figsize=(3.4 * len(values), 5), squeeze=False, layout="constrained")
    labels = {"in": "test images", "out": "out-distribution", "worst": "out, after the attack"}
    for (top, bottom), (name, scores) in zip(axes.T, values.items(), strict=True):
        edges = np.histogram_bin_edges(np.concatenate(list(scores.values())), 40)
        for color, (key, score) in enumerate(scores.items()):
            top.hist(score, edges, density=True, alpha=0.55, label=labels[key], color=f"C{color}")
        for color, (key, number) in enumerate((("out", "auc"), ("worst", "auc_worst")), 1):
            truth = np.r_[np.ones(len(scores["in"])), np.zeros(len(scores[key]))]
            false, true, _ = roc_curve(truth, np.r_[scores["in"], scores[key]])
            bottom.plot(false, true, color=f"C{color}", label=f"AUC {numbers[name][number]:.3f}")
        top.set(title=name, xlabel="-E(x)", ylabel="density")
        bottom.set(xlabel="false positive rate", ylabel="true positive rate")
        bottom.legend(frameon=False, loc="lower right")
    axes[0, 0].legend(frameon=False, fontsize=7)
    figure.suptitle(title)
    return _save(figure, path)


def landscapes(found: dict[str, dict], sides: dict[str, float], deviation: float, path: Path) -> Path:
    """D on the unit square and the field of its ascent, before and after training; a row for each out-distribution."""
    figure, axes = plt.subplots(len(found), 2, figsize=(8.4, 3.6 * len(found)), squeeze=False, layout="constrained")
    for row, (name, entry) in zip(axes, found.items(), strict=True):
        for ax, when in zip(row, ("start", "end"), strict=True):
            d, field = (entry[when][key].numpy() for key in ("D", "field"))
            side = np.linspace(0, 1, len(d))
            filled = ax.contourf(side, side, d, 24, cmap="viridis")
            figure.colorbar(filled, ax=ax, label="D")
            arrows = field / np.maximum(np.linalg.norm(field, axis=2, keepdims=True), 1e-12)
            ax.quiver(side[::3], side[::3], arrows[::3, ::3, 0], arrows[::3, ::3, 1], color="white", alpha=0.7, scale=28)
            ax.add_patch(plt.Circle((0.5, 0.5), 2 * deviation, fill=False, color="red"))
            ax.add_patch(plt.Rectangle((0, 0), sides[name], sides[name], fill=False, color="orange", linestyle="--", lw=2))
            ax.set(title=f"out-data {name}: {when}", aspect="equal", xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    figure.suptitle("red: two deviations of the data; dashed: where the out-data is; arrows: direction of ascent")
    return _save(figure, path)


def sheets(samples: dict[str, np.ndarray], path: Path, title: str, columns: int = 20) -> Path:
    """One row of samples for each name."""
    size = (8, 0.42 * len(samples) + 0.4)
    figure, axes = plt.subplots(len(samples), 1, figsize=size, squeeze=False, layout="constrained")
    for ax, (name, x) in zip(axes.flat, samples.items(), strict=True):
        _show(ax, _tiled(x[:columns], columns))
        ax.set_ylabel(name, rotation=0, ha="right", va="center")
    figure.suptitle(title)
    return _save(figure, path)
