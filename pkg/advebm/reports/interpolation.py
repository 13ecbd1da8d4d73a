"""The report of interpolation between samples."""

from pathlib import Path

import numpy as np

from advebm.evaluation.interpolation import InterpolationResult
from advebm.reports.base import Numbers, Report
from advebm.reports.tables import Table


class InterpolationReport(Report[InterpolationResult]):
    caption = "Rows from one sample to another, generated from interpolated starts."

    def line(self, result: InterpolationResult) -> str:
        found = {name: entry.smoothness for name, entry in result.named.items()}
        return ", ".join(f"{n} {'no start' if v is None else round(v, 3)}" for n, v in found.items()) or "no recipes"

    def metrics(self, result: InterpolationResult) -> Numbers:
        return {f"interpolation/{name}/smoothness": entry.smoothness for name, entry in result.named.items()}

    def table(self, result: InterpolationResult) -> Table:
        rows = [[name, entry.smoothness] for name, entry in result.named.items()]
        note = "The largest step in a row of images over the distance of its ends, median over rows; 1 where a row jumps."
        return Table("Interpolation", ["recipe", "smoothness"], rows, (note,))

    def picture(self, result: InterpolationResult, drawn: dict[str, np.ndarray | None], path: Path, title: str) -> Path:
        """A block of rows for each recipe; its images are (rows, columns, H, W, C)."""
        from advebm.figures.canvas import save_plot, save_text, stacked, tiled

        blocks = {name: tiled(x.reshape(-1, *x.shape[2:]), x.shape[1]) for name, x in drawn.items() if x is not None}
        if not blocks:
            return save_text("no start" if drawn else "no recipes", path, title)
        figure, axes = stacked(blocks, 0.4, f"{title}: interpolation")
        for name, ax in axes.items():
            ax.set_title(name, fontsize=9)
        return save_plot(figure, path)


REPORT = InterpolationReport()
