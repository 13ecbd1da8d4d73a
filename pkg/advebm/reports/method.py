"""The report of a method."""

from pathlib import Path
from typing import Any

from advebm.evaluation import MEASUREMENTS
from advebm.reports.headline import short
from advebm.reports.papers import papers
from advebm.reports.results import Found, Recovery
from advebm.reports.tables import Table, document


def sections(found: Found) -> list[Table]:
    """The tables of all measurements of a method, after what casts doubt on them."""
    reports = {name: measurement.report for name, measurement in MEASUREMENTS.items() if name in found.of}
    warnings = [f"{found.overfitted}."] if found.overfitted else []
    warnings += [f"{warning}." for name, report in reports.items() for warning in report.warnings(found.of[name])]
    first = [Table("Warnings", [], [], tuple(warnings))] if warnings else []
    first += [recoveries(found.recoveries)] if found.recoveries else []
    return [*first, *(report.table(found.of[name]) for name, report in reports.items())]


def recoveries(events: list[Recovery]) -> Table:
    """The recoveries of a training that diverged."""
    rows = [[i, event.back_to, event.event] for i, event in enumerate(events, 1)]
    note = "Each time it resumed from that step with other random numbers, smaller steps and longer chains."
    return Table(f"Training diverged {len(events)} times", ["recovery", "back to step", "why"], rows, (note,))


def numbers(found: Found) -> dict[str, Any]:
    """The content of report.json: what each measurement wrote, {} where it was not made."""
    return {name: found.of[name].json() if name in found.of else {} for name, m in MEASUREMENTS.items() if not m.apart}


def tables(study: str, used: dict[str, Any], method: str, found: Found) -> list[Table]:
    """The tables of a report, the short one first; used: the study's entry for data in params.yaml."""
    return [short(used, found), *sections(found), *papers(study, used, {method: found}, whole=False)]


def markdown(title: str, content: list[Table], results: Path, out: Path) -> str:
    """The report of a method in Markdown; out: its JSON file."""
    look = [
        f"- samples: {results}/samples/pictures/",
        *(f"- {picture.stem}: {picture}, for print .pdf" for picture in sorted(results.glob("*.png"))),
        f"- these numbers: {out}; those that DVC compares: {out.with_suffix('.metrics.json')}",
        "- every run: MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --workers 1 --backend-store-uri sqlite:///mlflow.db",
        "- every method on one page: comparison.html, by `dvc repro -P`",
        f"- this report with all its pictures on one page: {out.with_suffix('.html')}",
    ]
    return document(title, [*content, Table("Where to look", [], [], ("\n".join(look),))])
