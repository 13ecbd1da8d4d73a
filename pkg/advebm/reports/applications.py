"""The report of applications."""

from pathlib import Path

from advebm.evaluation.applications import ApplicationsResult, Shown
from advebm.reports.base import Numbers, Report
from advebm.reports.tables import Table, within


class ApplicationsReport(Report[ApplicationsResult]):
    caption = (
        "Inpainting, denoising and super-resolution of test images by the energy and by plain ways; painting of the next "
        "class into them (Santurkar et al. 2019, Section 3.5); translation of out-distribution images (Yin, Li and Rohde "
        "2022, Section 5.2); composition of classes (Du, Li and Mordatch 2020)."
    )

    def line(self, result: ApplicationsResult) -> str:
        found = {task: {way: round(r.psnr, 2) for way, r in ways.items()} for task, ways in result.tasks.items()}
        return "; ".join(f"{task} {', '.join(f'{w} {v}' for w, v in ways.items())}" for task, ways in found.items())

    def metrics(self, result: ApplicationsResult) -> Numbers:
        numbers: Numbers = {}
        for task, ways in result.tasks.items():
            for way, restored in ways.items():
                prefix = f"applications/{task}/{way}"
                numbers |= {f"{prefix}/{key}": getattr(restored, key) for key in ("psnr", "ssim", "features")}
        for expression, composed in result.composition.items():
            numbers[f"applications/composition/{expression}"] = composed.held
        if result.painting is not None:
            numbers["applications/painting"] = result.painting.held
        if result.translation is not None:
            numbers["applications/translation/fid"] = result.translation.fid[-1]
        return numbers

    def table(self, result: ApplicationsResult) -> Table:
        """A row for each way of each task, one for translation's end, and one for each composition."""
        rows: list[list] = []
        for task, ways in result.tasks.items():
            for way, r in ways.items():
                chosen = ", ".join(f"{key} {value:g}" for key, value in r.chosen.items())
                rows.append([task, way, within(r.psnr, r.psnr_ci), r.ssim, r.features, chosen])
        notes = [
            f"{result.n} test images. PSNR in dB. Features: the distance of the features of the study's feature network "
            "from those of the test image, over their length. What is chosen has the highest PSNR on validation images."
        ]
        if (p := result.painting) is not None:
            notes.append(
                f"Painting of the next class into the middle of {p.n} test images: the judge sees it in "
                f"{within(p.held, p.held_ci)} of them; in {p.before:.3f} before, in {p.pasted:.3f} with the middle of a "
                f"draw of its Gaussian; L2 distance {p.moved:.3g}, largest change of a pixel outside {p.outside:.3g}."
            )
        if (t := result.translation) is not None:
            notes.append(
                f"Translation of {t.n} images of {t.source}: FID {t.fid[0]:.4g} at the start, "
                + ", ".join(f"{fid:.4g} after {steps} steps" for steps, fid in zip(t.steps[1:], t.fid[1:], strict=True))
                + f"; L2 distance from the source at the end {t.moved[-1]:.3g}."
            )
        for expression, c in result.composition.items():
            shares = ", ".join(f"{share:.3f} are {word}" for word, share in c.shares.items())
            notes.append(f"Composition {expression}: holds for {within(c.held, c.held_ci)} of {c.n} images; {shares}.")
        return Table("Applications", ["task", "way", "PSNR [95%]", "SSIM", "features", "chosen"], rows, tuple(notes))

    def picture(self, result: ApplicationsResult, drawn: Shown, path: Path, title: str) -> Path:
        """A block for each task, with a row for each way, and the curves of translation."""
        from advebm.figures.canvas import plt, save_plot, show, tiled

        heights = [len(rows) for rows in drawn.blocks.values()] + [4] * (result.translation is not None)
        figure = plt.figure(figsize=(7, 0.46 * sum(heights) + 0.5 * len(heights)), layout="constrained")
        panels = figure.subfigures(len(heights), 1, height_ratios=[height + 0.8 for height in heights], squeeze=False)[:, 0]
        for panel, (name, rows) in zip(panels, drawn.blocks.items(), strict=False):
            axes = panel.subplots(len(rows), 1, squeeze=False)[:, 0]
            panel.suptitle(name, fontsize=9)
            for ax, (way, x) in zip(axes, rows.items(), strict=True):
                show(ax, tiled(x, len(x)))
                ax.set_ylabel(way, rotation=0, ha="right", va="center")
        if (t := result.translation) is not None:
            left, right = panels[-1].subplots(1, 2)
            left.plot(t.steps, t.fid, marker="o")
            left.set(xlabel="steps", ylabel="FID to training images")
            right.plot(t.steps, t.moved, marker="o")
            right.set(xlabel="steps", ylabel=f"L2 distance from {t.source}")
        figure.suptitle(f"{title}: applications")
        return save_plot(figure, path)


REPORT = ApplicationsReport()
