"""The report of energy landscapes."""

from pathlib import Path

import numpy as np

from advebm.evaluation.landscape import LandscapeResult, Surfaces
from advebm.reports.base import Numbers, Report
from advebm.reports.tables import Table, within


class LandscapeReport(Report[LandscapeResult]):
    caption = (
        "The energy on random planes through test images, minus that of the image (Zhu et al. 2021, Fig. 2): the joint "
        "energy E(x, y) with the image's class y, or the marginal E(x) where the network has no classes."
    )

    def line(self, result: LandscapeResult) -> str:
        return f"the energy rises by {result.rise:.4g} within {result.radius}"

    def metrics(self, result: LandscapeResult) -> Numbers:
        return {"landscape/rise": result.rise}

    def table(self, result: LandscapeResult) -> Table:
        note = "Mean rise of the energy from a test image to a circle on a random plane (Zhu et al. 2021, Fig. 2)."
        row = [result.radius, within(result.rise, result.rise_ci), result.images]
        return Table("Energy landscape", ["radius", "rise [95%]", "n"], [row], (note,))

    def picture(self, result: LandscapeResult, drawn: Surfaces, path: Path, title: str) -> Path:
        """A surface for each image, all on one scale, next to the image."""
        from advebm.figures.canvas import plt, save_plot, show

        columns, energies, radius = min(len(drawn.x), 2), drawn.energies, result.radius
        rows, side = -(-len(drawn.x) // columns), np.linspace(-radius, radius, energies.shape[1])
        figure = plt.figure(figsize=(5.8 * columns, 3.3 * rows))
        panels = figure.add_gridspec(rows, 2 * columns, width_ratios=(1, 4) * columns, wspace=0.3)
        low, high = energies.min(), energies.max()
        for i, image in enumerate(drawn.x):
            row, column = divmod(i, columns)
            show(figure.add_subplot(panels[row, 2 * column]), image)
            ax = figure.add_subplot(panels[row, 2 * column + 1], projection="3d")
            ax.plot_surface(
                *np.meshgrid(side, side), energies[i], cmap="viridis", vmin=low, vmax=high, rcount=60, ccount=60
            )
            ax.set_box_aspect(None, zoom=1.05)
            ax.set(zlim=(low, high), xticks=(-radius, 0, radius), yticks=(-radius, 0, radius))
            ax.set(xlabel="along u (L2)", ylabel="along v (L2)", zlabel=f"change of {drawn.energy}")
        kind = "joint" if "y" in drawn.energy else "marginal"
        figure.suptitle(f"{title}: {kind} energy {drawn.energy} on random planes (u, v), minus that of the image", y=0.95)
        return save_plot(figure, path)


REPORT = LandscapeReport()
