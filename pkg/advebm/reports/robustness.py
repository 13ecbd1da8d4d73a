"""The report of robust accuracy."""

from collections.abc import Iterable
from pathlib import Path

from advebm.evaluation.robustness import RobustnessResult
from advebm.reports.base import Numbers, Report
from advebm.reports.tables import Table, within

ASCENDS = {"ce": "on the cross-entropy", "energy": "on E(x, y)", "target": "to another class"}


class RobustnessReport(Report[RobustnessResult]):
    caption = "Accuracy and loss under attack, against the radius."

    def line(self, result: RobustnessResult) -> str:
        return printed(self.summary(result), result.warnings)

    def metrics(self, result: RobustnessResult) -> Numbers:
        return {f"robustness/{name}": value for name, value in self.summary(result).items()}

    def summary(self, result: RobustnessResult) -> Numbers:
        return {"clean": result.clean, **{name: attack.accuracy for name, attack in result.attacks.items()}}

    def note(self, results: Iterable[RobustnessResult]) -> str:
        results = list(results)
        attacks = {name: attack for result in results for name, attack in result.attacks.items()}
        described = [
            f"{name}: {a.norm} {a.eps:.3g}, {a.steps} steps {ASCENDS[a.ascends]}, best of {a.restarts}"
            for name, a in attacks.items()
        ]
        n = counts(result.n for result in results)
        return f"Accuracy on {n} test images, under attack at most; {'; '.join(described)}."

    def table(self, result: RobustnessResult) -> Table:
        rows = [["none", *[None] * 5, within(result.clean, result.clean_ci), result.n]]
        for name, a in result.attacks.items():
            rows.append([name, a.norm, a.eps, a.ascends, a.steps, a.restarts, within(a.accuracy, a.ci), result.n])
        header = ["attack", "norm", "radius", "ascends", "steps", "restarts", "accuracy, under attack at most [95%]", "n"]
        return Table("Accuracy on test images", header, rows)

    def warnings(self, result: RobustnessResult) -> list[str]:
        return masked(result.warnings)

    def picture(self, result: RobustnessResult, drawn: None, path: Path, title: str) -> Path:
        """Accuracy and mean cross-entropy against the radius of the attack."""
        from advebm.figures.canvas import plt, save_plot

        curve = result.curve
        figure, (left, right) = plt.subplots(1, 2, figsize=(7, 2.8), layout="constrained")
        for ax, values, label in ((left, curve.accuracy, "accuracy, at most"), (right, curve.loss, "mean cross-entropy")):
            ax.set(xlabel=f"radius of the attack, {curve.norm}", ylabel=label)
            if None in values:
                ax.text(0.5, 0.5, "no logits of classes", ha="center", transform=ax.transAxes)
            else:
                ax.plot(curve.eps, values, marker="o", markersize=3)
        figure.suptitle(f"{title}: test images under attack")
        return save_plot(figure, path)


def counts(numbers: Iterable[int]) -> str:
    """The number of images; several, joined by "or", where methods differ."""
    return " or ".join(map(str, sorted(set(numbers))))


def printed(accuracies: Numbers, warnings: list[str]) -> str:
    """Accuracies, and a line for each sign of masked gradients."""
    shown = ", ".join(f"{name} {'-' if v is None else f'{v:.4f}'}" for name, v in accuracies.items())
    return "\n".join([shown, *(f"warning: {warning}" for warning in masked(warnings))])


def masked(signs: list[str]) -> list[str]:
    """The warnings of masked gradients."""
    return [f"gradients may be masked: {sign}" for sign in signs]


REPORT = RobustnessReport()
