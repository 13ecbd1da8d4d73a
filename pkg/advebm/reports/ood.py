"""The report of out-distribution detection."""

from pathlib import Path

import numpy as np

from advebm.evaluation.ood import FOUND, OodResult
from advebm.reports.base import Numbers, Report
from advebm.reports.tables import Table, within


class OodReport(Report[OodResult]):
    caption = (
        "Detection: -E(x) of test images and of out-distribution images before and after the attack; ROC curves of the "
        "detector's score; its AUC against the radius of the attack."
    )

    def line(self, result: OodResult) -> str:
        return ", ".join(
            f"{name} {found.auc:.3f} (worst at most {found.auc_worst:.3f})" for name, found in result.named.items()
        )

    def metrics(self, result: OodResult) -> Numbers:
        numbers: Numbers = {}
        for name, found in result.named.items():
            keys = ("auc", "auc_worst", "fpr95", "fpr95_worst", "n")
            numbers |= {f"ood/{name}/{key}": getattr(found, key) for key in keys}
            for score, scored in found.scores.items():
                numbers |= {f"ood/{name}/{score}/auc": scored.auc, f"ood/{name}/{score}/fpr95": scored.fpr95}
                numbers |= {f"ood/{name}/{score}/worst_{norm}": case.auc for norm, case in scored.worst.items()}
        return numbers

    def table(self, result: OodResult) -> Table:
        """A row for each set and score, with the worst case by each norm."""
        lines = [(name, score, scored) for name, found in result.named.items() for score, scored in found.scores.items()]
        worst = {norm: case for *_, scored in lines for norm, case in scored.worst.items()}
        rows = []
        for name, score, scored in lines:
            cells = [within(scored.auc, scored.auc_ci), scored.fpr95]
            for norm in worst:
                case = scored.worst.get(norm)
                cells += [within(case.auc, case.auc_ci), case.fpr95] if case else [None, None]
            own = " (own)" if score == result.named[name].score else ""
            rows.append([name, score + own, *cells, result.named[name].n])
        header = ["set", "score", "AUC [95%]", "FPR95"]
        for norm, case in worst.items():
            header += [f"AUC at most, {norm} {case.eps:.3g}", f"FPR95 at least, {norm} {case.eps:.3g}"]
        attacked = sorted({case.n for *_, scored in lines for case in scored.worst.values()})
        note = (
            "FPR95: the share of out-distribution images that pass where 95% of test images do. (own): the detector's "
            f"score. At most, at least: the first {' or '.join(map(str, attacked))} out-distribution images of each set "
            "are moved within the radius to where the score takes them for data, until two rounds "
            f"of restarts together lower the AUC by less than {FOUND}; a stronger attack may find more. ood.json has each "
            "attack and its rounds."
        )
        return Table("Out-distribution images", [*header, "n"], rows, (note,))

    def picture(self, result: OodResult, drawn: dict[str, dict[str, np.ndarray]], path: Path, title: str) -> Path:
        """A column for each out-distribution set: -E(x) of test, out-distribution and attacked images, the ROC curves of
        the detector's score, and its AUC against the radius of the attack."""
        from sklearn.metrics import roc_curve

        from advebm.figures.canvas import STYLES, plt, save_plot

        figure, axes = plt.subplots(3, len(drawn), figsize=(3.4 * len(drawn), 7.4), squeeze=False, layout="constrained")
        labels = {"in": "test images", "out": "out-distribution", "worst": "after the attack"}
        for (top, middle, bottom), (name, scores) in zip(axes.T, drawn.items(), strict=True):
            energies = {key: scores[f"energy {key}"] for key in labels}
            edges = np.histogram_bin_edges(np.concatenate(list(energies.values())), 40)
            for color, (key, energy) in enumerate(energies.items()):
                own = {"facecolor": (f"C{color}", 0.35), "edgecolor": f"C{color}", "linestyle": STYLES[color]}
                top.hist(energy, edges, density=True, histtype="stepfilled", label=labels[key], **own)
            found = result.named[name]
            norm, case = next(iter(found.scores[found.score].worst.items()))
            ball = f"{norm} {case.eps:.3g}"
            for color, (key, auc) in enumerate((("out", found.auc), ("worst", found.auc_worst)), 1):
                truth = np.r_[np.ones(len(scores["in"])), np.zeros(len(scores[key]))]
                false, true, _ = roc_curve(truth, np.r_[scores["in"], scores[key]])
                middle.plot(false, true, color=f"C{color}", linestyle=STYLES[color], label=f"{labels[key]}: AUC {auc:.3f}")
            for norm, curve in found.curves.items():
                bottom.plot(curve.eps, curve.auc, marker="o", markersize=3, label=norm)
            top.set(title=f"{name}; attack: {ball}", xlabel="-E(x): high is likely", ylabel="density")
            middle.set(xlabel="false positive rate", ylabel=f"true positive rate, {found.score}")
            bottom.set(xlabel="radius of the attack", ylabel="AUC, at most", ylim=(-0.02, 1.02))
            middle.legend(frameon=False, fontsize=7)  # where it covers least
            bottom.legend(frameon=False)
        axes[0, 0].legend(frameon=False, fontsize=7)
        figure.suptitle(f"{title}: detection of out-distribution images")
        return save_plot(figure, path)

    def summary(self, result: OodResult) -> Numbers:
        standard: Numbers = {f"auc {name}": found.auc for name, found in result.named.items()}
        return standard | {f"worst {name}": found.auc_worst for name, found in result.named.items()}


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


REPORT = OodReport()
