"""The main numbers of a method: for DVC, and in the headline, the first table of a page such as README.md."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from advebm import config
from advebm.evaluation import MEASUREMENTS
from advebm.evaluation.ood import OodResult
from advebm.evaluation.quality import BUFFER
from advebm.evaluation.robustness import Robustness, RobustnessResult
from advebm.reports.base import Numbers
from advebm.reports.papers import DATA, printed_fid
from advebm.reports.results import Found
from advebm.reports.tables import Table, about, table

TITLES = {
    "clean": "clean",
    "pgd20": "PGD-20, at most",
    "autoattack": "AutoAttack, at most",
    "fid": "FID",
    "kid": "KID",
    "precision": "precision",
    "recall": "recall",
    "label_consistency": "label consistency",
    "auc": "AUC",
    "auc_worst": "worst, at most",
    "ece": "ECE",
}
SHORT = ("clean", "pgd20", "fid", "label_consistency", "auc", "auc_worst")
LONG = tuple(name for name in TITLES if name != "ece")
OF_RECIPES = ("fid", "kid", "precision", "recall", "label_consistency")  # the others are a method's
MAIN = ("clean", "pgd20", "fid", "fid_se", "label_consistency", "auc", "auc_worst", "ece")
Values = dict[str, list[float]]  # a method's numbers by their name in MLflow, one for each seed


def lines(entry: dict[str, Any], values: dict[str, Values], columns: Sequence[str] = SHORT) -> list[str]:
    """The table of a study's entry of params.yaml, in Markdown, from the numbers of each method: a row for each recipe,
    "not run" where a method has no numbers. columns: keys of TITLES."""
    header = ["method", "recipe", *(TITLES[name] for name in columns), "seeds"]
    printed = printed_fid() if entry["data"]["source"] == DATA else {}
    rows = []
    for name, numbers in values.items():
        recipes = list(entry["sampling"][name])
        own = measured_rows(entry, name, numbers, columns) if numbers else not_run(name, recipes, columns)
        rows += [[*row, printed.get((name, row[1]))] for row in own] if printed else own
    return table([*header, "FID, published"] if printed else header, rows)


def numbers(found: Found) -> Numbers:
    """The numbers of a method by their names in MLflow."""
    return {k: v for name, result in found.of.items() for k, v in MEASUREMENTS[name].report.metrics(result).items()}


def main(used: dict[str, Any], found: Found) -> Numbers:
    """The numbers that DVC compares, with the same names for every method; None where a method has none. used: the study's
    entry for data in params.yaml."""
    every, wanted = numbers(found), names(pgd20(found[RobustnessResult].attacks), *of_which(used, found))
    return {name: every.get(wanted[name]) for name in MAIN}


def of_which(used: dict[str, Any], found: Found) -> tuple[str | None, str | None]:
    """The recipe and the out-distribution set that the main numbers are of: the study's first of each."""
    recipe = next((name for name in found.samples if name != BUFFER), None)
    return recipe, next((name for name in used["out"] if name in found[OodResult].named), None)


def short(used: dict[str, Any], found: Found) -> Table:
    """The main numbers as a table."""
    (recipe, outside), values = of_which(used, found), main(used, found)
    images = f"fid, with its standard error fid_se, and label_consistency: of samples by {recipe}. " if recipe else ""
    note = f"{images}auc: against {outside}. pgd20, auc_worst: under attack, at most."
    return Table("In short", list(values), [list(values.values())], (note,))


def names(pgd: str | None, recipe: str | None, outside: str | None) -> dict[str, str]:
    """The names in MLflow of TITLES and MAIN: under this attack, of samples by this recipe, against this set."""
    return {
        "clean": "robustness/clean",
        "pgd20": f"robustness/{pgd}",
        "autoattack": "autoattack/linf",
        **{name: f"quality/{recipe}/{name}" for name in (*OF_RECIPES, "fid_se")},
        "auc": f"ood/{outside}/auc",
        "auc_worst": f"ood/{outside}/auc_worst",
        "ece": "calibration/ece",
    }


def names_in(entry: dict[str, Any], values: Values, recipe: str | None) -> dict[str, str]:
    """`names` under the study's PGD-20, of samples by this recipe, against the study's first set that was measured."""
    outside = next((name for name in entry["data"]["out"] if f"ood/{name}/auc" in values), None)
    return names(pgd20(config.build(Robustness, entry["robustness"]).attacks), recipe, outside)


def pgd20(attacks: Mapping[str, Any]) -> str | None:
    """The name of the first attack that is PGD-20: 20 steps up the cross-entropy within Linf."""
    return next((name for name, a in attacks.items() if (a.norm, a.ascends, a.steps) == ("linf", "ce", 20)), None)


def filled(text: str, name: str, study: str, lines: list[str]) -> str | None:
    """The text with `lines` between the two marks of a study's table of that name; None where it lacks them."""
    first, last = f"<!-- {name} {study} -->\n", f"<!-- end {name} -->"
    before, begun, rest = text.partition(first)
    _, ended, after = rest.partition(last)
    return before + first + "\n".join(["", *lines, "", ""]) + last + after if begun and ended else None


def not_run(method: str, recipes: list[str], columns: Sequence[str]) -> list[list[Any]]:
    """A row for each recipe of a method without measurements."""
    rest = [None] * len(columns)
    return [[method if not i else "", recipe, "not run", *rest] for i, recipe in enumerate(recipes or [None])]


def over(values: Values, name: str) -> str | float | None:
    """Mean and standard deviation over the seeds; of one seed the number and, if there is one, its standard error."""
    found = values.get(name, [])
    if len(found) > 1:
        return about(statistics.mean(found), statistics.stdev(found))
    return about(found[0], *values.get(f"{name}_se", [None])) if found else None


def measured_rows(entry: dict[str, Any], method: str, values: Values, columns: Sequence[str]) -> list[list[Any]]:
    """A row for each recipe; the first also has the numbers that do not depend on it. None for what was not measured."""
    sampled = [name.split("/")[1] for name in values if name.startswith("quality/") and name.endswith("/fid")]
    recipes: list[str | None] = [name for name in sampled if name != BUFFER]
    rows: list[list[Any]] = []
    for recipe in recipes or [None]:
        name_of = names_in(entry, values, recipe)
        cells = [over(values, name_of[key]) if not rows or key in OF_RECIPES else "" for key in columns]
        first = (method, max(map(len, values.values()))) if not rows else ("", "")
        rows.append([first[0], recipe, *cells, first[1]])
    return rows
