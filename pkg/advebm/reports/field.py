"""The field at a glance: what each method can do, and what its training costs."""

from typing import Any

from advebm.reports.headline import TITLES, Values, names_in, over
from advebm.reports.tables import table

GFLOP = "train/gflop_per_image"  # of a training step, at its longest chain
COLUMNS = ("clean", "pgd20", "autoattack", "fid", "kid", "label_consistency", "auc", "auc_worst", "ece")
HEADER = ["method", "recipe", *(TITLES[name] for name in COLUMNS), "GFLOP an image", "seconds", "diverged", "seeds"]


def lines(entry: dict[str, Any], values: dict[str, Values]) -> list[str]:
    """The table of a study's entry of params.yaml, in Markdown: a row for each method, with the first of its recipes."""
    return table(HEADER, [row(entry, name, numbers) for name, numbers in values.items()])


def row(entry: dict[str, Any], method: str, values: Values) -> list[Any]:
    """The cells of a method; None for what was not measured or does not apply."""
    recipe = next(iter(entry["sampling"][method]), None)
    name_of = names_in(entry, values, recipe)
    diverged, seeds = values.get("train/divergences", []), max(map(len, values.values()), default=0)
    wanted = [*(name_of[key] for key in COLUMNS), GFLOP, "train/seconds"]
    told = f"{sum(map(bool, diverged))} of {len(diverged)}" if diverged else None
    return [method, recipe, *(over(values, name) for name in wanted), told, seeds or "not run"]
