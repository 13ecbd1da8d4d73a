"""All methods as detectors: their tables and curves."""

from pathlib import Path

from advebm.evaluation.ood import Attacked, OodResult
from advebm.reports.ood import REPORT, described
from advebm.reports.tables import Table, within


def detection(found: dict[str, OodResult]) -> Table:
    """A row for each method, by its detector's own score."""
    columns = dict.fromkeys(key for result in found.values() for key in REPORT.summary(result))
    keys = sorted(columns, key=lambda key: key.startswith("worst "))  # the standard AUC of every set first
    rows = []
    radii: dict[str, None] = {}  # as an ordered set
    for method, result in found.items():
        first = next(iter(result.named.values()))
        norm, worst = next(iter(first.scores[first.score].worst.items()))
        radii[f"{norm} {worst.eps:.3g}"] = None
        rows.append([method, first.score, *map(REPORT.summary(result).get, keys), first.n])
    note = (
        f"AUC of test images against each set; worst: its images moved within {', '.join(radii)} to look like data; a "
        "stronger attack may find less."
    )
    header = [f"{key}, at most" if key.startswith("worst ") else key for key in keys]
    return Table("Detection", ["method", "score", *header, "n"], rows, (note,))


def attacked(found: dict[str, OodResult]) -> list[Table]:
    """A row for each method and set, by the detector's own score after each attack; no table where there was one alone."""
    rows: list[list] = []
    attacks: dict[str, Attacked] = {}
    for method, result in found.items():
        for name, entry in result.named.items():
            after = entry.scores[entry.score].attacks
            attacks |= after
            if after:
                n = next(iter(after.values())).n
                rows.append([method, name, entry.score, *(within(a.auc, a.auc_ci) for a in after.values()), n])
    header = ["method", "set", "score", *(f"AUC at most, {key} [95%]" for key in attacks), "n"]
    notes = (described(attacks.values()), "An AUC below that of `descents` is a worst case that our attack missed.")
    return [Table("Detection under each attack", header, rows, notes)] if rows else []


def radii(found: dict[str, OodResult], path: Path, title: str) -> Path:
    """The AUC of each method's score against the radius of the attack: a row for each norm, a column for each set."""
    from advebm.figures.canvas import SAFE, STYLES, plt, save_plot

    curves = {
        (norm, name): {method: result.named[name].curves[norm] for method, result in found.items() if name in result.named}
        for name, entry in next(iter(found.values())).named.items()
        for norm in entry.curves
    }
    norms, names = (list(dict.fromkeys(key[i] for key in curves)) for i in (0, 1))
    size = (3.6 * len(names), 2.8 * len(norms))
    figure, axes = plt.subplots(len(norms), len(names), figsize=size, squeeze=False, sharey=True, layout="constrained")
    for (norm, name), lines in curves.items():
        ax = axes[norms.index(norm), names.index(name)]
        for i, (method, curve) in enumerate(lines.items()):
            style = {"color": SAFE[i % len(SAFE)], "linestyle": STYLES[(i + i // len(SAFE)) % len(STYLES)]}
            ax.plot(curve.eps, curve.auc, marker="osD"[i // len(SAFE) % 3], markersize=3, label=method, **style)
        ax.set(title=name, xlabel=f"radius of the attack, {norm}", ylim=(-0.02, 1.02))
    for ax in axes[:, 0]:
        ax.set_ylabel("AUC, at most")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False, fontsize=7)
    figure.suptitle(title)
    return save_plot(figure, path)
