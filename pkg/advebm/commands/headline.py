"""The first table of a page such as README.md."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from advebm import config
from advebm.commands import options as o
from advebm.runtime import disk


def headline(
    page: Annotated[Path, Argument(help="Markdown file with the lines <!-- headline STUDY --> and <!-- end headline -->")],
    results: Annotated[Path | None, Option(help="folder with a sub-folder for each method; default: tracked runs")] = None,
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
    method: o.Methods = None,
) -> None:
    """Fill in a study's table between two lines of a page: a row for each recipe of each method, "not run" where the method
    has no results. Of the tracked runs, mean and standard deviation over their seeds; of a folder, the numbers of one seed.

    Raises FileNotFoundError if the page does not exist, ValueError if it lacks the lines.
    """
    entry = config.read(params, study)
    for name in method or []:
        config.read(params, study, name)
    if not page.is_file():
        raise FileNotFoundError(f"{page}: no such file")
    from advebm.reports.headline import filled, lines, numbers
    from advebm.reports.results import measured
    from advebm.reports.seeds import over_seeds

    methods = method or list(entry["models"])
    if results is not None:
        found = {name: numbers(measured(results / name, partial=True)) for name in methods}
        values = {name: {key: [v] for key, v in of.items() if v is not None} for name, of in found.items()}
    else:
        values = {name: {} for name in methods}
        for (name, number), seeds in over_seeds(entry, study).items():
            if name in values:
                values[name][number] = list(seeds.values())
    rows = lines(entry, values)
    text = filled(disk.read_text(page), study, rows)
    if text is None:
        marks = f"<!-- headline {study} --> and <!-- end headline -->"
        raise ValueError(f"{page}: lacks the lines {marks}, which enclose the table of {study}")
    page.write_text(text, encoding="utf-8")
    print("\n".join(rows))
