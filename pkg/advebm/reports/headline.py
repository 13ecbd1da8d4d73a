"""The headline: the first table of a page such as README.md, filled with measured numbers."""

from pathlib import Path
from typing import Any

from advebm.evaluation.ood import OodResult
from advebm.evaluation.quality import BUFFER, Scores
from advebm.evaluation.robustness import RobustnessResult
from advebm.reports.papers import DATA, printed_fid
from advebm.reports.results import Found, measured
from advebm.reports.tables import about, table

HEADER = ["method", "recipe", "clean", "PGD-20, at most", "FID", "label consistency", "AUC", "worst, at most"]


def lines(entry: dict[str, Any], methods: list[str], results: Path) -> list[str]:
    """The table of a study's entry of params.yaml, in Markdown: a row for each recipe of each method."""
    printed = printed_fid() if entry["data"]["source"] == DATA else {}
    rows = []
    for name in methods:
        found = measured(results / name, partial=True)
        own = measured_rows(name, found) if found.of else not_run(name, list(entry["sampling"][name]))
        rows += [[*row, printed.get((name, row[1]))] for row in own] if printed else own
    return table([*HEADER, "FID, published"] if printed else HEADER, rows)


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


def measured_rows(method: str, found: Found) -> list[list[Any]]:
    """A row for each recipe; the first also has the numbers that do not depend on it. None for what was not measured."""
    robust, outside = found.get(RobustnessResult), found.get(OodResult)
    detected = next(iter(outside.named.values())) if outside else None
    attacks = robust.attacks.values() if robust else ()
    pgd = next((a for a in attacks if (a.norm, a.ascends, a.steps) == ("linf", "ce", 20)), None)
    first = [robust and robust.clean, pgd and pgd.accuracy], [detected and detected.auc, detected and detected.auc_worst]
    rows: list[list[Any]] = []
    recipes: dict[str | None, Scores | None] = {n: scores for n, scores in found.samples.items() if n != BUFFER}
    for recipe, scores in (recipes or {None: None}).items():
        quality = [about(scores.fid, scores.fid_se), scores.label_consistency] if scores else [None, None]
        general = first if not rows else (["", ""], ["", ""])
        rows.append([method if not rows else "", recipe, *general[0], *quality, *general[1]])
    return rows
