"""A method's numbers next to the published ones, and the comparison of methods."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from advebm import config
from advebm.commands import options as o
from advebm.runtime import disk


def report(
    method: o.Method,
    results: Annotated[Path, Option(help="folder with the method's quality.json, ood.json, robustness.json, ...")],
    model: o.ModelFile,
    out: o.ReportFile,
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
) -> None:
    """Write a method's numbers next to the published ones, as JSON and Markdown, and print them; its main numbers as JSON;
    and a web page of its tables and pictures."""
    entry = config.read(params, study, method)
    from advebm.reports.headline import main
    from advebm.reports.method import markdown, numbers, tables
    from advebm.reports.page import page, pictures
    from advebm.reports.results import measured

    found, title = measured(results, model.parent), f"{study}: {method}"
    content = tables(study, entry["data"], method, found)
    disk.write_json(out.with_suffix(".metrics.json"), main(entry["data"], found))
    disk.write_report(out, numbers(found), markdown(title, content, results, out))
    shown = page(title, content[:1], {method: (content[1:], pictures(found, results, model.parent))})
    out.with_suffix(".html").write_text(shown, encoding="utf-8")


def compare(
    methods: Annotated[list[str] | None, Argument(help="methods of the study [default: all]")] = None,
    results: Annotated[
        Path | None, Option(help="folder with a sub-folder for each method [default: results/STUDY]")
    ] = None,
    models: Annotated[Path | None, Option(help="folder with a sub-folder for each method [default: models/STUDY]")] = None,
    out: Annotated[
        Path, Option(help="JSON file to write; Markdown, pictures and web page of the same name are written too")
    ] = Path("out/comparison.json"),
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
) -> None:
    """Compare methods of a study, and the papers' tables with what was measured; write one web page of all tables and
    pictures. Methods without results are left out, with a line that says what they lack."""
    entry = config.read(params, study)
    for method in methods or []:
        config.read(params, study, method)
    from advebm import figures
    from advebm.data import images
    from advebm.evaluation.ood import OodResult
    from advebm.evaluation.quality import BUFFER
    from advebm.reports import comparison, detectors
    from advebm.reports.method import sections
    from advebm.reports.page import embedded, page, pictures
    from advebm.reports.papers import papers
    from advebm.reports.results import measured
    from advebm.reports.tables import document

    results, models = results or Path("results", study), models or Path("models", study)
    found, left_out = {}, []
    for method in dict.fromkeys(methods or entry["models"]):
        if methods or any(results.glob(f"{method}/*")):  # DVC leaves empty folders
            lacking = comparison.lacks(results / method)
            if not lacking:
                found[method] = measured(results / method, models / method, apart=True)
                lacking = comparison.unsampled(found[method], results / method)
            if lacking:
                found.pop(method, None)
                left_out.append(f"{method}, which lacks {', '.join(lacking)}")
    run = f"`dvc exp run -S study={study} -S method=NAME`" if methods else "`dvc repro -P`"
    if not found:
        what = f" but {'; '.join(left_out)}" if left_out else ""
        raise FileNotFoundError(f"{results}: no method has results{what}; run {run}")
    note = f"Left out: {'; '.join(left_out)}; {run} makes it." if left_out else ""
    title = f"{study}: {', '.join(found) if methods else 'every method'}"
    general = [*comparison.overview(found, note), *papers(study, entry["data"], found, whole=not methods)]
    sheets = {
        f"{method}/{recipe}": images.load(results / method / "samples" / f"{recipe}.npz").x
        for method, content in found.items()
        for recipe in content.samples
        if recipe != BUFFER
    }
    shown = {
        method: (sections(content), pictures(content, results / method, models / method))
        for method, content in found.items()
    }

    outside = {method: content[OodResult] for method, content in found.items()}
    disk.write_report(out, comparison.rows(found), document(title, general))
    sheet, html = out.with_suffix(".png"), out.with_suffix(".html")
    if sheets:
        figures.sheets(sheets, sheet, f"{study}: the first samples of each method and recipe")
    against = "AUC of each method's score against the radius of the attack"
    curves = detectors.radii(outside, out.with_name(f"{out.stem}_ood.png"), f"{study}: {against}")
    overall = {
        "Samples": embedded({sheet: "The first samples of each method and recipe."} if sheets else {}),
        "Detection": embedded({curves: f"The {against}."}),
    }
    html.write_text(page(title, general, shown, overall), encoding="utf-8")
    print("\n".join(filter(None, [note, f"wrote {html}"])))
