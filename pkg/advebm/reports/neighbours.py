"""The report of nearest neighbours."""

from pathlib import Path

import numpy as np

from advebm.evaluation.neighbours import Near, Nearest, NeighboursResult
from advebm.reports.base import Numbers, Report
from advebm.reports.tables import Table

WAYS = {"l2": "L2", "features": "features"}
OTHERS = {"l2": "images of less contrast", "features": "images more typical of their class"}
LEVEL = 1e-3  # of p, below which copies are suspected: with some twenty recipes in a study, one in fifty has a false one


class NeighboursReport(Report[NeighboursResult]):
    caption = "Samples, and the training images nearest to them (Zhu et al. 2021, Fig. 7)."

    def line(self, result: NeighboursResult) -> str:
        shown = ", ".join(f"{name} {near.l2.median:.3g}" for name, near in result.named.items())
        return "\n".join([shown, *(f"warning: {warning}" for warning in self.warnings(result))])

    def warnings(self, result: NeighboursResult) -> list[str]:
        return [
            f"{name}: by {WAYS[way]} the images are nearer to training images than test images are, as copies would be, or "
            f"{OTHERS[way]}: z {test.z:.3g}, p {test.p:.2g}"
            for name, near in result.named.items()
            for way, test in near.copying.items()
            if test.p < LEVEL
        ]

    def metrics(self, result: NeighboursResult) -> Numbers:
        numbers: Numbers = {}
        for name, near in result.named.items():
            numbers |= {f"neighbours/{name}/l2/{key}": value for key, value in vars(near.l2).items()}
            numbers |= {f"neighbours/{name}/features/{key}": value for key, value in vars(near.features).items()}
            numbers |= {f"neighbours/{name}/ssim/{key}": value for key, value in vars(near.ssim).items()}
            for way, test in near.copying.items():
                numbers |= {f"neighbours/{name}/copying/{way}/{key}": value for key, value in vars(test).items()}
            numbers[f"neighbours/{name}/n"] = near.n
        return numbers

    def table(self, result: NeighboursResult) -> Table:
        """A row for each recipe, and one for the test images to compare with."""
        rows = [
            [
                name,
                near.n,
                *(value for way in WAYS for value in (*vars(getattr(near, way)).values(), *_copying(near, way))),
                *vars(near.ssim).values(),
            ]
            for name, near in result.named.items()
        ]
        of_way = [f"{name}, {number}" for name in WAYS.values() for number in ("minimum", "5%", "median", "z", "p")]
        header = ["images", "n", *of_way, "SSIM, maximum", "SSIM, median", "n of SSIM"]
        notes = (
            "To the nearest training image, by the L2 distance of pixels and of features, those of the study's feature "
            "network. Copies would be nearer than test images. More images have a lower minimum.",
            "z, p: whether distances are shorter than those of test images (Mann and Whitney's U; Meehan et al. 2020). "
            "z below 0: shorter; p: the chance of that if they were alike. z far above 0: unlike any training image.",
        )
        return Table("Nearest training images", header, rows, notes)

    def picture(self, result: NeighboursResult, drawn: Nearest, path: Path, title: str) -> Path:
        """A row for each sample of each recipe: the sample, then its nearest training images by each way."""
        from advebm.figures.canvas import save_plot, save_text, stacked, tiled

        if not drawn.samples:
            return save_text("no recipes", path, title)
        blocks, median = {}, {name: near.l2.median for name, near in result.named.items()}
        for name, x in drawn.samples.items():
            found = drawn.found[name]
            shown = x[: len(found.l2), None]
            blank = np.full_like(shown, 255)
            row = np.concatenate([shown, *(part for index in found for part in (blank, drawn.train[index]))], 1)
            blocks[name] = tiled(row.reshape(-1, *x.shape[1:]), row.shape[1])
        figure, axes = stacked(blocks, 0.55, f"{title}: nearest training images")
        for name, ax in axes.items():
            k = drawn.found[name].l2.shape[1]
            pitch = blocks[name].shape[1] / (3 * k + 4)
            places = [0.5 * pitch, *((2 + k / 2 + i * (k + 1)) * pitch for i in range(3))]
            ax.set_xticks(places, ["sample", "nearest by L2", "by features", "by SSIM"])
            ax.tick_params(length=0)
            of_test = median["test images"]
            ax.set_title(f"{name}: median L2 distance {median[name]:.2f}, of test images {of_test:.2f}", fontsize=9)
        return save_plot(figure, path)


def _copying(near: Near, way: str) -> tuple[float | None, float | None]:
    """z and p of the test for copies; None for the test images."""
    return (near.copying[way].z, near.copying[way].p) if near.copying else (None, None)


REPORT = NeighboursReport()
