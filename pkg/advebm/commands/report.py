"""A method's numbers next to the published ones, and the comparison of all methods."""

import json
from pathlib import Path
from typing import Annotated

from typer import Option

from advebm import config
from advebm.commands import options as o


def report(
    method: o.Method,
    results: Annotated[Path, Option(help="folder with the method's quality.json, ood.json, robustness.json, ...")],
    model: o.ModelFile,
    out: Annotated[Path, Option(help="JSON file to write; a Markdown file of the same name is written too")],
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
) -> None:
    """Write a method's numbers next to the published ones, as JSON and Markdown, and print them."""
    entry = config.read(params, study, method)
    from advebm.reports.method import markdown, numbers
    from advebm.reports.results import measured

    found = measured(results, model.parent)
    text = markdown(study, entry["data"], method, found, results)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(numbers(found), indent=1) + "\n")
    out.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


def compare(
    results: Annotated[Path, Option(help="folder with a sub-folder for each method")],
    models: Annotated[Path, Option(help="folder with a sub-folder for each method")],
    out: Annotated[
        Path, Option(help="JSON file to write; Markdown, picture and web page of the same name are written too")
    ],
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
) -> None:
    """Compare all methods of a study, and the papers' tables with what was measured; write one web page of all tables
    and pictures."""
    entry = config.read(params, study)
    from advebm import figures
    from advebm.data import images
    from advebm.evaluation.quality import BUFFER
    from advebm.reports import comparison
    from advebm.reports.method import sections
    from advebm.reports.page import page, pictures
    from advebm.reports.papers import papers
    from advebm.reports.results import measured
    from advebm.reports.tables import document

    found, left_out = {}, []
    for method in entry["models"]:
        if any(results.glob(f"{method}/*")):  # DVC leaves empty folders
            lacking = comparison.lacks(results / method)
            if not lacking:
                found[method] = measured(results / method, models / method)
                lacking = comparison.unsampled(found[method], results / method)
            if lacking:
                found.pop(method, None)
                left_out.append(f"{method}, which lacks {', '.join(lacking)}")
    if not found:
        what = f" but {'; '.join(left_out)}" if left_out else ""
        raise FileNotFoundError(f"{results}: no method has results{what}; run `dvc repro -P`")
    note = f"Left out: {'; '.join(left_out)}." if left_out else ""
    general = [*comparison.overview(found, note), *papers(study, entry["data"], found)]
    text = document(f"{study}: every method", general)
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

    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(comparison.rows(found), indent=1) + "\n")
    out.with_suffix(".md").write_text(text, encoding="utf-8")
    if sheets:
        figures.sheets(sheets, out.with_suffix(".png"), f"{study}: the first samples of each method and recipe")
    out.with_suffix(".html").write_text(page(study, general, out.with_suffix(".png"), shown), encoding="utf-8")
    print(text)
