"""The first table of a page such as README.md, filled with what was measured."""

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from advebm import config
from advebm.commands import options as o
from advebm.reports.papers import DATA, printed_fid
from advebm.reports.results import BUFFER, Found, read_json, scored
from advebm.reports.tables import about, table

PARTS = ("quality", "robustness", "ood")  # what is read, of each what is there
HEADER = ["method", "recipe", "clean", "PGD-20", "FID", "label consistency", "AUC", "worst case"]


def headline(
    page: Annotated[Path, Argument(help="Markdown file with the lines <!-- headline STUDY --> and <!-- end headline -->")],
    results: Annotated[Path, Option(help="folder with a sub-folder for each method")],
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
    method: Annotated[list[str] | None, Option(help="a row's method, again for more [default: all]")] = None,
) -> None:
    """Write a study's table between two lines of a page: a row for each recipe of each method, "not run" where nothing was
    measured of the method.

    Raises FileNotFoundError where there is no page, ValueError where it lacks the lines.
    """
    entry = config.read(params, study)
    for name in method or []:
        config.read(params, study, name)
    if not page.is_file():
        raise FileNotFoundError(f"{page}: no such file")
    text, first, last = page.read_text(encoding="utf-8"), f"<!-- headline {study} -->\n", "<!-- end headline -->"
    before, begun, rest = text.partition(first)
    _, ended, after = rest.partition(last)
    if not begun or not ended:
        raise ValueError(f"{page}: lacks the lines {first.strip()} and {last}, between which the table of {study} goes")
    printed = printed_fid() if entry["data"]["source"] == DATA else {}
    rows = []
    for name in method or entry["models"]:
        found = {key: read_json(file, key) for key in PARTS if (file := results / name / f"{key}.json").is_file()}
        found_rows = measured_rows(name, found) if found else not_run(name, list(entry["sampling"][name]))
        rows += [[*row, printed.get((name, row[1]))] for row in found_rows] if printed else found_rows
    lines = table([*HEADER, "FID, published"] if printed else HEADER, rows)
    page.write_text(before + first + "\n".join(["", *lines, "", ""]) + last + after, encoding="utf-8")
    print("\n".join(lines))


def not_run(method: str, recipes: list[str]) -> list[list[Any]]:
    """A row for each recipe of a method of which nothing was measured."""
    rest = [None] * (len(HEADER) - 3)
    return [[method if not i else "", recipe, "not run", *rest] for i, recipe in enumerate(recipes or [None])]


def measured_rows(method: str, found: Found) -> list[list[Any]]:
    """A row for each recipe; what does not depend on it stands in the first. A dash for what was not measured yet."""
    robust, detected = found.get("robustness", {}), next(iter(found.get("ood", {}).values()), {})
    attacks = robust.get("attacks", {}).values()
    attacked = next((a for a in attacks if (a["norm"], a["ascends"], a["steps"]) == ("linf", "ce", 20)), {})
    first = [robust.get("clean"), attacked.get("accuracy")], [detected.get("auc"), detected.get("auc_worst")]
    rows, images = [], scored(found) if "quality" in found else {}
    for recipe, s in [(name, s) for name, s in images.items() if name != BUFFER] or [(None, {})]:
        quality = [about(s.get("fid"), s.get("fid_se")), s.get("label_consistency")]
        general = first if not rows else (["", ""], ["", ""])
        rows.append([method if not rows else "", recipe, *general[0], *quality, *general[1]])
    return rows
