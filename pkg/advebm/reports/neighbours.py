"""The report of nearest neighbours."""

from pathlib import Path

import numpy as np

from advebm.evaluation.neighbours import Near, Nearest, NeighboursResult
from advebm.reports.base import Numbers, Report
from advebm.reports.tables import Table

LEVEL = 1e-3  # of p, below which copies are suspected: with some twenty recipes in a study, one in fifty has a false one


class NeighboursReport(Report[NeighboursResult]):
    caption = "Samples, and the training images nearest to them (Zhu et al. 2021, Fig. 7)."

    def line(self, result: NeighboursResult) -> str:
        shown = ", ".join(f"{name} {near.l2.median:.3g}" for name, near in result.named.items())
        return "\n".join([shown, *(f"warning: {warning}" for warning in self.warnings(result))])

    def warnings(self, result: NeighboursResult) -> list[str]:
        return [
            f"{name}: the images are nearer to training images than test images are, as copies would be, or images of less "
            f"contrast: z {near.copying.z:.3g}, p {near.copying.p:.2g}"
            for name, near in result.named.items()
            if near.copying and near.copying.p < LEVEL
        ]

    def metrics(self, result: NeighboursResult) -> Numbers:
        numbers: Numbers = {}
        for name, near in result.named.items():
            numbers |= {f"neighbours/{name}/l2/{key}": value for key, value in vars(near.l2).items()}
            numbers |= {f"neighbours/{name}/ssim/{key}": value for key, value in vars(near.ssim).items()}
            numbers |= {f"neighbours/{name}/copying/{key}": value for key, value in _copying(near).items()}
            numbers[f"neighbours/{name}/n"] = near.n
        return numbers

    def table(self, result: NeighboursResult) -> Table:
        """A row for each recipe, and one for the test images to compare with."""
        rows = [
            [name, *vars(near.l2).values(), near.n, *_copying(near).values(), *vars(near.ssim).values()]
            for name, near in result.named.items()
        ]
        header = [
            "images",
            "L2, minimum",
            "L2, 5%",
            "L2, median",
            "n",
            "z",
            "p",
            "SSIM, maximum",
            "SSIM, median",
            "n of SSIM",
        ]
        notes = (
            "To the nearest training image. Copies would be nearer than test images. More images have a lower minimum.",
            "z, p: whether L2 distances are shorter than those of test images (Mann and Whitney's U; Meehan et al. 2020). "
            "z below 0: shorter; p: the chance of that if they were alike. z far above 0: unlike any training image.",
        )
        return Table("Nearest training images", header, rows, notes)

    def picture(self, result: NeighboursResult, drawn: Nearest, path: Path, title: str) -> Path:
        """A row for each sample of each recipe: the sample, then its nearest training images by L2 and by SSIM."""
        from advebm.figures.canvas import save_plot, save_text, stacked, tiled

        if not drawn.samples:
            return save_text("no recipes", path, title)
        blocks, median = {}, {name: near.l2.median for name, near in result.named.items()}
        for name, x in drawn.samples.items():
            by_l2, by_ssim = drawn.found[name]
            blank = np.full((len(by_l2), 1, *x.shape[1:]), 255, np.uint8)
            row = np.concatenate([x[: len(by_l2), None], blank, drawn.train[by_l2], blank, drawn.train[by_ssim]], 1)
            blocks[name] = tiled(row.reshape(-1, *x.shape[1:]), row.shape[1])
        figure, axes = stacked(blocks, 0.55, f"{title}: nearest training images")
        for name, ax in axes.items():
            k = drawn.found[name][0].shape[1]
            pitch = blocks[name].shape[1] / (2 * k + 3)
            places = [0.5 * pitch, (2 + k / 2) * pitch, (3 + 1.5 * k) * pitch]
            ax.set_xticks(places, ["sample", "nearest training images by L2", "by SSIM"])
            ax.tick_params(length=0)
            of_test = median["test images"]
            ax.set_title(f"{name}: median distance {median[name]:.2f}, of test images {of_test:.2f}", fontsize=9)
        return save_plot(figure, path)


def _copying(near: Near) -> Numbers:
    """z and p of the test for copies; None for the test images."""
    return dict(vars(near.copying)) if near.copying else {"z": None, "p": None}


REPORT = NeighboursReport()
