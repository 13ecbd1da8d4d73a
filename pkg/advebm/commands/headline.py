"""The tables of a page such as README.md that sum a study up."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from advebm import config
from advebm.commands import options as o
from advebm.runtime import disk, project


def headline(
    page: Annotated[Path, Argument(help="Markdown file with the lines <!-- headline STUDY --> and <!-- end headline -->")],
    results: Annotated[Path | None, Option(help="folder with a sub-folder for each method; default: tracked runs")] = None,
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
    method: o.Methods = None,
) -> None:
    """Fill in a study's table between two lines of a page: a row for each recipe of each method, "not run" where the method
    has no results. Of the tracked runs, mean and standard deviation over their seeds; of a folder, the numbers of one seed.

    Between <!-- recipes STUDY --> and <!-- end recipes --> the rows have more measurements. Between <!-- field STUDY -->
    and <!-- end field --> it is another table: a row for each method, and what training cost. Its operations are counted
    on the way, of matrix products and convolutions, in one training step of each method, on noise; progressive chains at
    their longest.

    Raises FileNotFoundError if the page does not exist, ValueError if it lacks the lines.
    """
    entry = config.read(params, study)
    for name in method or []:
        config.read(params, study, name)
    if not page.is_file():
        raise FileNotFoundError(f"{page}: no such file")
    text = disk.read_text(page)
    from advebm.bench.timing import gflop_per_image
    from advebm.reports import field
    from advebm.reports import headline as short
    from advebm.reports.results import measured
    from advebm.reports.seeds import over_seeds

    tables: dict[str, Callable[..., list[str]]]
    tables = {"headline": short.lines, "recipes": partial(short.lines, columns=short.LONG), "field": field.lines}
    tables = {name: lines for name, lines in tables.items() if short.filled(text, name, study, []) is not None}
    if not tables:
        marks = f"<!-- headline {study} --> and <!-- end headline -->"
        raise ValueError(f"{page}: lacks the lines {marks}, which enclose the table of {study}")
    methods = method or list(entry["models"])
    if results is not None:
        found = {name: short.numbers(measured(results / name, partial=True)) for name in methods}
        values = {name: {key: [v] for key, v in of.items() if v is not None} for name, of in found.items()}
    else:
        values = {name: {} for name in methods}
        for (name, number), seeds in over_seeds(entry, study).items():
            if name in values:
                values[name][number] = list(seeds.values())
    if "field" in tables:
        for name in filter(values.get, values):
            values[name][field.GFLOP] = [gflop_per_image(entry, name, project.data_root(None))]
    for name, lines in tables.items():
        rows = lines(entry, values)
        text = short.filled(text, name, study, rows) or text
        print("\n".join(rows))
    page.write_text(text, encoding="utf-8")
