"""The report of calibration."""

from collections.abc import Iterable
from pathlib import Path

from advebm.evaluation.calibration import CalibrationResult
from advebm.reports.base import Numbers, Report
from advebm.reports.tables import Table, within


class CalibrationReport(Report[CalibrationResult]):
    caption = "Accuracy of the classifier against its confidence; on the diagonal it is calibrated."
    columns = ("ece",)

    def line(self, result: CalibrationResult) -> str:
        return "no classes" if result.ece is None else f"ECE {result.ece:.4f}"

    def metrics(self, result: CalibrationResult) -> Numbers:
        return {f"calibration/{key}": getattr(result, key) for key in ("ece", "accuracy", "confidence")}

    def summary(self, result: CalibrationResult) -> Numbers:
        return {"ece": result.ece}

    def note(self, results: Iterable[CalibrationResult]) -> str:
        return "ece: expected calibration error."

    def table(self, result: CalibrationResult) -> Table:
        row = [result.accuracy, result.confidence, within(result.ece, result.ece_ci), result.n]
        return Table("Calibration", ["accuracy", "mean confidence", "ECE [95%]", "n"], [row])

    def picture(self, result: CalibrationResult, drawn: None, path: Path, title: str) -> Path:
        """Accuracy in each bin of confidence, on the diagonal where calibrated, and the number of images in the bin."""
        from advebm.figures.canvas import plt, save_plot, save_text

        if result.ece is None or result.ece_ci is None:
            return save_text("no classes", path, title)
        bins = [b for b in result.bins if b.count]
        left, width = [b.low for b in bins], [b.high - b.low for b in bins]
        confidence, accuracy = [b.confidence for b in bins], [b.accuracy for b in bins]
        figure, (top, bottom) = plt.subplots(
            2, 1, sharex=True, figsize=(3.6, 4.8), height_ratios=(3, 1), layout="constrained"
        )
        style = {"width": width, "align": "edge", "edgecolor": "white", "linewidth": 0.5}
        top.bar(left, accuracy, color="C0", alpha=0.5, label="accuracy", **style)
        top.plot([0, 1], [0, 1], color="0.4", linestyle="--", linewidth=1, label="calibrated")
        top.vlines(confidence, confidence, accuracy, color="C4", linewidth=2, label="gap to confidence")
        low, high = result.ece_ci
        heading = f"{title}: calibration\nECE {result.ece:.4f} [{low:.4f}, {high:.4f}]"
        top.set(ylim=(0, 1.02), ylabel="accuracy", title=heading)
        bottom.bar(left, [b.count for b in bins], color="0.6", **style)
        bottom.set(xlim=(0, 1), yscale="log", xlabel="confidence", ylabel="images")
        figure.legend(*top.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
        return save_plot(figure, path)


REPORT = CalibrationReport()
