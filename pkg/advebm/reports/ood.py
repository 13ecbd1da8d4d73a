"""The report of out-distribution detection."""

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import numpy as np

from advebm.energy import passing
from advebm.evaluation.ood import FOUND, Attacked, OodResult, Scored
from advebm.evaluation.result import Named
from advebm.reports.base import Numbers, Report
from advebm.reports.tables import Table, within


class OodReport(Report[OodResult]):
    caption = (
        "Detection: -E(x) of test images and of out-distribution images before and after the attack; ROC curves of the "
        "detector's score; its AUC against the radius of the attack."
    )
    sheets: ClassVar[dict[str, str]] = {
        "fooled": "What fools it: the out-distribution images that score highest after the attack, before and after it; "
        "their score, and the class that the network sees."
    }

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
                numbers |= each(f"ood/{name}/{score}", scored)
        return numbers

    def warnings(self, result: OodResult) -> list[str]:
        return loose(by_score(result))

    def table(self, result: OodResult) -> Table:
        """A row for each set and score, with the worst case by each norm, and after each further attack."""
        own = {name: found.score for name, found in result.named.items()}
        rows = [
            (name, f"{score} (own)" if score == own[name] else score, scored, result.named[name].n)
            for name, score, scored in by_score(result)
        ]
        note = "(own): the detector's score; comparison.html, by `dvc repro -P`, has the worst case of the others."
        return detections("Out-distribution images", rows, note, "ood.json")

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

    def pictures(self, result: OodResult, drawn: dict[str, dict[str, np.ndarray]], path: Path, title: str) -> list[Path]:
        sheet = path.with_name(f"{path.stem}_fooled.png")
        return [*super().pictures(result, drawn, path, title), self.fooled(result, drawn, sheet, title)]

    def fooled(self, result: OodResult, drawn: dict[str, dict[str, np.ndarray]], path: Path, title: str) -> Path:
        """Two rows for each out-distribution set: the images that score highest after the attack, before and after it."""
        from advebm.figures.canvas import plt, save, show, tiled

        figure = plt.figure(figsize=(9, 2.3 * len(drawn) + 0.4), layout="constrained")
        panels = figure.subfigures(len(drawn), 1, squeeze=False)[:, 0]
        for panel, (name, values) in zip(panels, drawn.items(), strict=True):
            found, least = result.named[name], passing(values["in"])
            norm, case = next(iter(found.scores[found.score].worst.items()))
            passed = int((values["worst"] >= least).sum())
            told = f"{passed} of {case.n} score at least {least:.3g}, as 95% of test images do"
            panel.suptitle(f"{name}, {found.score}, attacked within {norm} {case.eps:.3g}: {told}", fontsize=9)
            for ax, key in zip(panel.subplots(2, 1), ("before", "after"), strict=True):
                x, scores, seen = values[key], values[f"score {key}"], values.get(f"class {key}")
                show(ax, tiled(x, len(x)))
                pitch = x.shape[2] + 1
                words = [f"{s:.3g}" + ("" if seen is None else f"\nclass {seen[i]}") for i, s in enumerate(scores)]
                ax.set_xticks([(i + 0.5) * pitch for i in range(len(x))], words, fontsize=7)
                ax.tick_params(length=0)
                ax.set_ylabel(key, rotation=0, ha="right", va="center")
        figure.suptitle(f"{title}: the out-distribution images that look most like data after the attack")
        return save(figure, path)

    def summary(self, result: OodResult) -> Numbers:
        standard: Numbers = {f"auc {name}": found.auc for name, found in result.named.items()}
        return standard | {f"worst {name}": found.auc_worst for name, found in result.named.items()}


def by_score(result: Named) -> list[tuple[str, str, Scored]]:
    """Set, score and detection by it, of OodResult or ScoresResult."""
    return [(name, score, scored) for name, found in result.named.items() for score, scored in found.scores.items()]


def each(key: str, scored: Scored) -> Numbers:
    """The numbers of detection by a score, under that key."""
    numbers: Numbers = {f"{key}/auc": scored.auc, f"{key}/fpr95": scored.fpr95}
    numbers |= {f"{key}/worst_{norm}": case.auc for norm, case in scored.worst.items()}
    return numbers | {f"{key}/{name}": after.auc for name, after in scored.attacks.items()}


def loose(lines: Iterable[tuple[str, str, Scored]]) -> list[str]:
    """Where a published attack finds more than ours: a worst case that is too good. lines: set, score, detection by it."""
    found = []
    for name, score, scored in lines:
        ours = scored.attacks.get("descents")
        for key, after in scored.attacks.items():
            if ours and key in ("apgd", "square") and ours.auc - after.auc > FOUND:
                masked = "; gradients may be masked" if key == "square" else ""
                found.append(f"{name}, {score}: AUC {after.auc:.3f} after {key}, {ours.auc:.3f} after ours{masked}")
    return found


def detections(title: str, lines: list[tuple[str, str, Scored, int]], note: str, file: str) -> Table:
    """A row for each set and score, with the worst case by each norm, and after each further attack. lines: set, score,
    detection by it, images per side; file: which has the rounds of the attacks."""
    found = [scored for *_, scored, _ in lines]
    attacks = {key: after for scored in found for key, after in scored.attacks.items()}
    worst = {norm: case for scored in found for norm, case in scored.worst.items()}
    rows = []
    for name, score, scored, n in lines:
        cells = [within(scored.auc, scored.auc_ci), scored.fpr95]
        for norm in worst:
            case = scored.worst.get(norm)
            cells += [within(case.auc, case.auc_ci), case.fpr95] if case else [None, None]
        cells += [within(after.auc, after.auc_ci) if after else None for after in map(scored.attacks.get, attacks)]
        rows.append([name, score, *cells, n])
    header = ["set", "score", "AUC [95%]", "FPR95"]
    for norm, case in worst.items():
        header += [f"AUC at most, {norm} {case.eps:.3g}", f"FPR95 at least, {norm} {case.eps:.3g}"]
    header += [f"AUC at most, {key}" for key in attacks]
    moved = sorted({case.n for scored in found for case in scored.worst.values()})
    about = (
        f"FPR95: the share of out-distribution images that pass where 95% of test images do. At most, at least: the first "
        f"{' or '.join(map(str, moved))} out-distribution images of each set are moved within the radius to where the "
        f"score takes them for data, until two rounds of restarts together lower the AUC by less than {FOUND}; a stronger "
        f"attack may find more. {file} has each attack and its rounds."
    )
    notes = (note, about, described(attacks.values()))
    return Table(title, [*header, "n"], rows, tuple(filter(None, notes)))


def described(attacks: Iterable[Attacked]) -> str:
    """A sentence about the attacks in a table."""
    named = {after.attack: after.n for after in attacks}
    words = "; ".join(named)
    return f"On the first {' or '.join(map(str, dict.fromkeys(named.values())))} of each set: {words}." if named else ""


REPORT = OodReport()
