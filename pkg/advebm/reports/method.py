"""The report of a method."""

from pathlib import Path
from typing import Any

from advebm.evaluation import MEASUREMENTS
from advebm.reports.papers import papers
from advebm.reports.results import Found
from advebm.reports.tables import Table, document

LEFT_OUT = ("protocol", "curve", "curves", "baselines")  # of report.json, as is every list


def sections(found: Found) -> list[Table]:
    """The tables of all measurements of a method."""
    measured = [measurement.report.table(found.of[name]) for name, measurement in MEASUREMENTS.items() if name in found.of]
    return [*([recoveries(found.recoveries)] if found.recoveries else []), *measured]


def recoveries(events: list[dict[str, Any]]) -> Table:
    """The recoveries of a training that diverged."""
    rows = [[i, event["back_to"], event["event"]] for i, event in enumerate(events, 1)]
    note = "Each time it resumed from that step with other random numbers, smaller steps and longer chains."
    return Table(f"Training diverged {len(events)} times", ["recovery", "back to step", "why"], rows, (note,))


def numbers(found: Found) -> dict[str, Any]:
    """The content of report.json: the numbers of each measurement that DVC shows, one per column."""
    wanted = [name for name, measurement in MEASUREMENTS.items() if measurement.metric]
    return {name: plain(found.of[name].json()) if name in found.of else {} for name in wanted}


def plain(content: Any) -> Any:
    """The content without lists and the keys in LEFT_OUT."""
    if not isinstance(content, dict):
        return content
    return {key: plain(value) for key, value in content.items() if key not in LEFT_OUT and not isinstance(value, list)}


def markdown(study: str, used: dict[str, Any], method: str, found: Found, results: Path) -> str:
    """The report of a method in Markdown; used: the study's entry for data in params.yaml."""
    look = [
        f"- samples: {results}/samples/pictures/",
        *(f"- {picture.stem}: {picture}, for print .pdf" for picture in sorted(results.glob("*.png"))),
        "- this report: report.md, report.json",
        "- every method, tables and pictures on one page: comparison.html, by `dvc repro -P`",
        "- every run: MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --workers 1 --backend-store-uri sqlite:///mlflow.db",
    ]
    published = papers(study, used, {method: found}, whole=False)
    where = Table("Where to look", [], [], ("\n".join(look),))
    return document(f"{study}: {method}", [*sections(found), *published, where])
