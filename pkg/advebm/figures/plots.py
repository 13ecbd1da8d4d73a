"""Curves, histograms and surfaces."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from advebm.figures.canvas import SAFE, plt, save, save_plot

if TYPE_CHECKING:
    from advebm.evaluation.steps import StepsResult

MARKERS = "osD^vPX"
WORDS = {  # for the parts of the names of a training's records
    "ce": "cross-entropy",
    "energy": "energy of the data",
    "energy_gap": "energy gap, E(x+) - E(x~)",
    "lr": "learning rate",
    "joint": "change of the joint energy, E(x, y)",
    "marginal": "change of the marginal energy, E(x)",
    "delta_x": "by the attack",
    "delta_theta": "by the optimiser's step",
    "bits_per_dim": "bits per dimension",
    "fgsm": "under one step, FGSM",
    "pgd": "under PGD",
    "kl": "divergence, KL",
}


def curves(
    table: dict[str, list[float]], path: Path, title: str, overfitted: int | None = None, *, vector: bool = False
) -> Path:
    """Every column of the training's records against the step, a panel for each name after the slash. A line at step 0
    separates the records of the warm start, which have negative steps. Another marks the step, if there is one, at which
    training had overfitted. `vector`: as of `save`."""
    names = sorted({name.split("/")[1] for name in table if "/" in name})
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.2 * columns, 2.3 * rows), squeeze=False, layout="constrained")
    for ax in axes.flat[len(names) :]:
        ax.set_visible(False)
    for ax, name in zip(axes.flat, names, strict=False):
        for column in (c for c in table if c.endswith(f"/{name}")):
            source = column.split("/")[0]
            ax.plot(table["step"], table[column], label=WORDS.get(source, source))
        if min(table["step"]) < 0:
            ax.axvline(0, color="0.6", linewidth=0.8, linestyle="--")
        if overfitted is not None and name == "accuracy":
            ax.axvline(overfitted, color=SAFE[4], linewidth=1.2, label=f"overfitted catastrophically, step {overfitted}")
        ax.set_title(WORDS.get(name, name), fontsize=9)
        ax.legend(frameon=False, fontsize=7)
        ax.set_xlabel("step")
        ax.locator_params(axis="x", nbins=5)
    figure.suptitle(f"{title}: training")
    return save(figure, path, vector=vector)


def landscapes(found: dict[str, dict], sides: dict[str, float], deviation: float, path: Path) -> Path:
    """D on the unit square and the directions of its ascent, before and after training; a row for each out-distribution."""
    figure, axes = plt.subplots(len(found), 2, figsize=(8.4, 3.6 * len(found)), squeeze=False, layout="constrained")
    for row, (name, entry) in zip(axes, found.items(), strict=True):
        for ax, when in zip(row, ("start", "end"), strict=True):
            d, field = (entry[when][key].numpy() for key in ("D", "field"))
            side = np.linspace(0, 1, len(d))
            filled = ax.contourf(side, side, d, 24, cmap="viridis")
            figure.colorbar(filled, ax=ax, label="D")
            arrows = field / np.maximum(np.linalg.norm(field, axis=2, keepdims=True), 1e-12)
            ax.quiver(side[::3], side[::3], arrows[::3, ::3, 0], arrows[::3, ::3, 1], color="white", alpha=0.7, scale=28)
            ax.add_patch(plt.Circle((0.5, 0.5), 2 * deviation, fill=False, color=SAFE[4], lw=2))
            ax.add_patch(plt.Rectangle((0, 0), sides[name], sides[name], fill=False, color=SAFE[4], linestyle="--", lw=2))
            ax.set(title=f"out-data {name}: {when}", aspect="equal", xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    figure.suptitle("circle: two standard deviations of the data; dashed: the out-data; arrows: direction of ascent")
    return save_plot(figure, path)


def steps(result: "StepsResult", path: Path, title: str) -> Path:
    """FID with a band of its standard error, label consistency and mean energy against the number of steps: a curve for
    each recipe, a dashed line for real images."""
    lengths, columns = result.lengths, 4 if max(map(len, result.curves)) < 30 else 2
    height = 3.2 + 0.2 * -(-len(result.curves) // columns)
    figure, panels = plt.subplots(1, 3, figsize=(11, height), layout="constrained")
    for i, (name, curve) in enumerate(result.curves.items()):
        style = {"color": SAFE[i % len(SAFE)], "marker": MARKERS[i % len(MARKERS)], "markersize": 4, "label": name}
        style["linestyle"] = "-" if i < len(SAFE) else ":"
        low, high = (np.array(curve.fid) + sign * np.array(curve.fid_se) for sign in (-1, 1))
        panels[0].fill_between(lengths, low, high, color=style["color"], alpha=0.2, linewidth=0)
        for ax, key in zip(panels, ("fid", "label_consistency", "energy"), strict=True):
            if None not in (values := getattr(curve, key)):
                ax.plot(lengths, values, **style)
    real = result.real.validation
    lines = (("training", result.real.train["fid"]), ("validation", real.label_consistency), ("validation", real.energy))
    labels = ("FID, with its standard error", "label consistency", "mean E(x)")
    for ax, (split, value), label in zip(panels, lines, labels, strict=True):
        if value is not None:
            ax.axhline(value, color="0.4", linestyle="--", linewidth=1)
            ax.set_title(f"dashed: {split} images", fontsize=8, color="0.4")
        ax.set(xscale="log", xlabel="steps", ylabel=label)
        ax.set_xticks(lengths, [str(length) for length in lengths], minor=False)
        ax.minorticks_off()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=columns, frameon=False)
    figure.suptitle(f"{title}: {result.images} images against as many of the validation split")
    return save_plot(figure, path)


def series(lines: dict[str, dict[str, dict]], ends: dict[str, dict], axis: str | None, path: Path, title: str) -> Path:
    """A panel for each metric, with lines {name: {place: values}}: means, with the standard deviation of several values.
    Two more lines mark class Gaussians and real images. Without an axis each name has one place, which is numbered."""
    figure, panels = plt.subplots(1, len(lines), figsize=(4.2 * len(lines), 3.4), squeeze=False, layout="constrained")
    for ax, (metric, named) in zip(panels.flat, lines.items(), strict=True):
        for i, (name, places) in enumerate(named.items()):
            at = sorted(places) if axis else [i]
            values = [places[place] for place in at] if axis else list(places.values())
            mean, deviation = [np.mean(v) for v in values], [np.std(v, ddof=1) if len(v) > 1 else 0 for v in values]
            label = name if axis else f"{i + 1}: {name}"
            ax.errorbar(at, mean, deviation, marker="o", markersize=4, capsize=2, label=label)
        for style, (end, numbers) in zip((":", "--"), ends.items(), strict=True):
            if numbers.get(metric) is not None:
                ax.axhline(numbers[metric], color="0.5", linestyle=style, linewidth=1, label=f"({end})")
        ax.set(title=metric, xlabel=axis or "")
        if not axis:
            ax.set_xticks(range(len(named)), range(1, len(named) + 1))
    handles, labels = panels[0, 0].get_legend_handles_labels()
    columns = 4 if max(map(len, labels)) < 40 else 2
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=7)
    figure.suptitle(title)
    return save_plot(figure, path)
