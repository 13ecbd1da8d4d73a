"""The selected method's numbers beside the published ones."""

import json
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from advebm import config
from advebm.commands import options as o
from advebm.reports.papers import papers
from advebm.reports.results import Found, measured, scored
from advebm.reports.sections import sections
from advebm.reports.tables import Table, document

COUNTED = ("robustness", "quality", "ood", "autoattack", "fisher", "calibration", "neighbours")  # what report.json holds
LEFT_OUT = ("protocol", "curve", "curves")  # of these files, beside every list


def report(
    method: o.Method,
    results: Annotated[Path, Option(help="folder with quality.json, ood.json, robustness.json and more")],
    model: o.ModelFile,
    out: Annotated[Path, Option(help="the JSON file to write; the Markdown file lies beside it")],
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
) -> None:
    """Write a method's numbers beside the published ones, as JSON and Markdown, and print them."""
    entry = config.read(params, study, method)
    found = measured(results, model.parent)
    text = markdown(study, entry["data"], method, found, results)
    out.parent.mkdir(parents=True, exist_ok=True)
    numbers = {name: plain(scored(found) if name == "quality" else found[name]) for name in COUNTED}
    out.write_text(json.dumps(numbers, indent=1) + "\n")
    out.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


def plain(content: Any) -> Any:
    """Of numbers by name those that DVC is to show, a column each."""
    if not isinstance(content, dict):
        return content
    return {key: plain(value) for key, value in content.items() if key not in LEFT_OUT and not isinstance(value, list)}


def markdown(study: str, used: dict[str, Any], method: str, found: Found, results: Path) -> str:
    """The report of a method; used: what params.yaml says of the study's data."""
    look = [
        f"- samples: {results}/samples/pictures/",
        *(f"- {picture.stem}: {picture}" for picture in sorted(results.glob("*.png"))),
        "- this report: report.md, report.json",
        "- every method, tables and pictures on one page: comparison.html, by `dvc repro -P`",
        "- every run: MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --workers 1 --backend-store-uri sqlite:///mlflow.db",
    ]
    published = papers(study, used, {method: found}, whole=False)
    return document(
        f"{study}: {method}", [*sections(found), *published, Table("Where to look", [], [], ("\n".join(look),))]
    )
