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
    """A column for each out-distribution set: -E(x) of in, out and moved out images, the ROC curves of the detector's
    score, and its AUC against the radius of the attack."""
    from sklearn.metrics import roc_curve

    figure, axes = plt.subplots(3, len(values), figsize=(3.4 * len(values), 7.4), squeeze=False, layout="constrained")
    labels = {"in": "test images", "out": "out-distribution", "worst": "out, after the attack"}
    for (top, middle, bottom), (name, scores) in zip(axes.T, values.items(), strict=True):
        energies = {key: scores[f"energy {key}"] for key in labels}
        edges = np.histogram_bin_edges(np.concatenate(list(energies.values())), 40)
        for color, (key, energy) in enumerate(energies.items()):
            top.hist(energy, edges, density=True, alpha=0.55, label=labels[key], color=f"C{color}")
        found = numbers[name]
        for color, (key, number) in enumerate((("out", "auc"), ("worst", "auc_worst")), 1):
            truth = np.r_[np.ones(len(scores["in"])), np.zeros(len(scores[key]))]
            false, true, _ = roc_curve(truth, np.r_[scores["in"], scores[key]])
            middle.plot(false, true, color=f"C{color}", label=f"AUC {found[number]:.3f}")
        for norm, curve in found["curves"].items():
            bottom.plot(curve["eps"], curve["auc"], marker="o", markersize=3, label=norm)
        top.set(title=name, xlabel="-E(x)", ylabel="density")
        middle.set(xlabel="false positive rate", ylabel=f"true positive rate, {found['score']}")
        bottom.set(xlabel="radius", ylabel="AUC, worst case", ylim=(-0.02, 1.02))
        middle.legend(frameon=False, loc="lower right")
        bottom.legend(frameon=False)
    axes[0, 0].legend(frameon=False, fontsize=7)
    figure.suptitle(title)
    return _save(figure, path)


def radius(curve: dict, path: Path, title: str) -> Path:
    """Accuracy, and mean cross-entropy, against the radius of the attack."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7, 2.8), layout="constrained")
    for ax, key, label in ((left, "accuracy", "accuracy"), (right, "loss", "cross-entropy")):
        ax.set(xlabel=f"radius, {curve['norm']}", ylabel=label)
        if None in curve[key]:
            ax.text(0.5, 0.5, "no logits of classes", ha="center", transform=ax.transAxes)
        else:
            ax.plot(curve["eps"], curve[key], marker="o", markersize=3)
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


def words(text: str, path: Path, title: str) -> Path:
    """A small picture that says why there is no other."""
    figure, axes = plt.subplots(figsize=(3.2, 0.8))
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center")
    axes.set_title(title)
    return _save(figure, path)


def reliability(numbers: dict, path: Path, title: str) -> Path:
    """Accuracy of each bin of confidence, on the diagonal where calibrated, and under it how many images the bin has."""
    if not numbers["bins"]:
        return words("no classes", path, title)
    bins = [b for b in numbers["bins"] if b["count"]]
    left, width = [b["low"] for b in bins], [b["high"] - b["low"] for b in bins]
    confidence, accuracy, count = ([b[key] for b in bins] for key in ("confidence", "accuracy", "count"))
    figure, (top, bottom) = plt.subplots(2, 1, sharex=True, figsize=(3.6, 4.8), height_ratios=(3, 1), layout="constrained")
    style = {"width": width, "align": "edge", "edgecolor": "white", "linewidth": 0.5}
    top.bar(left, accuracy, color="C0", alpha=0.5, label="accuracy", **style)
    top.plot([0, 1], [0, 1], color="0.4", linestyle="--", linewidth=1)
    top.vlines(confidence, confidence, accuracy, color="C3", linewidth=2, label="gap to confidence")
    low, high = numbers["ece_ci"]
    top.set(ylim=(0, 1.02), ylabel="accuracy", title=f"{title}\nECE {numbers['ece']:.4f} [{low:.4f}, {high:.4f}]")
    bottom.bar(left, count, color="0.6", **style)
    bottom.set(xlim=(0, 1), yscale="log", xlabel="confidence", ylabel="images")
    figure.legend(*top.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return _save(figure, path)


def surfaces(x: np.ndarray, energies: np.ndarray, radius: float, path: Path, title: str) -> Path:
    """Energies (N, points, points), on one scale, over a plane through each image x uint8 (N, H, W, C), shown beside."""
    columns = min(len(x), 2)
    rows, side = -(-len(x) // columns), np.linspace(-radius, radius, energies.shape[1])
    figure = plt.figure(figsize=(5 * columns, 3.2 * rows))
    panels = figure.add_gridspec(rows, 2 * columns, width_ratios=(1, 4) * columns, wspace=0.2)
    low, high = energies.min(), energies.max()
    for i, image in enumerate(x):
        row, column = divmod(i, columns)
        _show(figure.add_subplot(panels[row, 2 * column]), image)
        ax = figure.add_subplot(panels[row, 2 * column + 1], projection="3d")
        ax.plot_surface(*np.meshgrid(side, side), energies[i], cmap="viridis", vmin=low, vmax=high, rcount=60, ccount=60)
        ax.set_box_aspect(None, zoom=1.05)
        ax.set(zlim=(low, high), xticks=(-radius, 0, radius), yticks=(-radius, 0, radius))
    figure.suptitle(title, y=0.95)
    return _save(figure, path)


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
        blocks[name] = _tiled(row.reshape(-1, *x.shape[1:]), row.shape[1])
    height = 5 * sum(b.shape[0] / b.shape[1] for b in blocks.values()) + 0.55 * len(blocks)
    figure, axes = plt.subplots(len(blocks), 1, figsize=(5, height), squeeze=False, layout="constrained")
    for ax, (name, block) in zip(axes.flat, blocks.items(), strict=True):
        _show(ax, block)
        k = found[name][0].shape[1]
        pitch = block.shape[1] / (2 * k + 3)
        places = [0.5 * pitch, (2 + k / 2) * pitch, (3 + 1.5 * k) * pitch]
        ax.set_xticks(places, ["sample", "nearest training images by L2", "by SSIM"])
        ax.tick_params(length=0)
        ax.set_title(f"{name}: median distance {median[name]:.2f}, of test images {median['test images']:.2f}", fontsize=9)
    figure.suptitle(title)
    return _save(figure, path)


def rows(blocks: dict[str, np.ndarray | None], path: Path, title: str) -> Path:
    """A block of rows for each name, of images (rows, columns, H, W, C)."""
    if not any(x is not None for x in blocks.values()):
        return words("no start" if blocks else "no recipes", path, title)
    drawn = {name: _tiled(x.reshape(-1, *x.shape[2:]), x.shape[1]) for name, x in blocks.items() if x is not None}
    height = 5 * sum(sheet.shape[0] / sheet.shape[1] for sheet in drawn.values()) + 0.4 * len(drawn)
    figure, axes = plt.subplots(len(drawn), 1, figsize=(5, height), squeeze=False, layout="constrained")
    for ax, (name, sheet) in zip(axes.flat, drawn.items(), strict=True):
        _show(ax, sheet)
        ax.set_title(name, fontsize=9)
    figure.suptitle(title)
    return _save(figure, path)
