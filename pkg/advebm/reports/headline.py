"""The headline: the first table of a page such as README.md, filled with measured numbers."""

import statistics
from pathlib import Path
from typing import Any

from advebm import config
from advebm.evaluation import MEASUREMENTS
from advebm.evaluation.quality import BUFFER
from advebm.evaluation.robustness import Robustness
from advebm.reports.papers import DATA, printed_fid
from advebm.reports.results import measured
from advebm.reports.tables import about, table

HEADER = ["method", "recipe", "clean", "PGD-20, at most", "FID", "label consistency", "AUC", "worst, at most", "seeds"]
Values = dict[str, list[float]]  # a method's numbers by their name in MLflow, one for each seed


def lines(entry: dict[str, Any], values: dict[str, Values]) -> list[str]:
    """The table of a study's entry of params.yaml, in Markdown, from the numbers of each method: a row for each recipe,
    "not run" where a method has no numbers."""
    printed = printed_fid() if entry["data"]["source"] == DATA else {}
    rows = []
    for name, numbers in values.items():
        own = measured_rows(entry, name, numbers) if numbers else not_run(name, list(entry["sampling"][name]))
        rows += [[*row, printed.get((name, row[1]))] for row in own] if printed else own
    return table([*HEADER, "FID, published"] if printed else HEADER, rows)


def of_results(results: Path) -> Values:
    """The numbers in a method's folder of results, of one seed."""
    found = measured(results, partial=True).of
    numbers = {k: v for name, result in found.items() for k, v in MEASUREMENTS[name].report.metrics(result).items()}
    return {name: [value] for name, value in numbers.items() if value is not None}


def filled(text: str, study: str, lines: list[str]) -> str | None:
    """The text with `lines` between the two marks of the study; None where it lacks them."""
    first, last = f"<!-- headline {study} -->\n", "<!-- end headline -->"
    before, begun, rest = text.partition(first)
    _, ended, after = rest.partition(last)
    return before + first + "\n".join(["", *lines, "", ""]) + last + after if begun and ended else None


def not_run(method: str, recipes: list[str]) -> list[list[Any]]:
    """A row for each recipe of a method without measurements."""
    rest = [None] * (len(HEADER) - 3)
    return [[method if not i else "", recipe, "not run", *rest] for i, recipe in enumerate(recipes or [None])]


def measured_rows(entry: dict[str, Any], method: str, values: Values) -> list[list[Any]]:
    """A row for each recipe; the first also has the numbers that do not depend on it. None for what was not measured."""
    attacks = config.build(Robustness, entry["robustness"]).attacks
    pgd = next((name for name, a in attacks.items() if (a.norm, a.ascends, a.steps) == ("linf", "ce", 20)), None)
    outside = next((name for name in entry["data"]["out"] if f"ood/{name}/auc" in values), None)

    def cell(name: str) -> str | float | None:
        """Mean and standard deviation over the seeds; of one seed the number and, if there is one, its standard error."""
        found = values.get(name, [])
        if len(found) > 1:
            return about(statistics.mean(found), statistics.stdev(found))
        return about(found[0], *values.get(f"{name}_se", [None])) if found else None

    classifies = [cell("robustness/clean"), cell(f"robustness/{pgd}")]
    detects = [cell(f"ood/{outside}/auc"), cell(f"ood/{outside}/auc_worst"), max(map(len, values.values()))]
    names = [name.split("/")[1] for name in values if name.startswith("quality/") and name.endswith("/fid")]
    rows: list[list[Any]] = []
    recipes: list[str | None] = [name for name in names if name != BUFFER]
    for recipe in recipes or [None]:
        quality = [cell(f"quality/{recipe}/{key}") for key in ("fid", "label_consistency")]
        before, after = (classifies, detects) if not rows else ([""] * 2, [""] * 3)
        rows.append([method if not rows else "", recipe, *before, *quality, *after])
    return rows
