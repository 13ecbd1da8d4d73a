"""The web page of one or several methods: every table and picture in one file that needs no network."""

import base64
import io
import re
from pathlib import Path
from typing import NamedTuple

from advebm.evaluation import MEASUREMENTS
from advebm.reports.results import Found
from advebm.reports.tables import Beside, Table, text
from advebm.runtime import disk

TEMPLATE = Path(__file__).with_name("page.html")
COLORS = 256  # of a picture on the page: a third of the bytes, so the page stays below 20 MB


class Picture(NamedTuple):
    caption: str
    source: str  # a data URI
    width: int
    height: int


def page(
    title: str,
    general: list[Table],
    methods: dict[str, tuple[list[Table], list[Picture]]],
    overall: dict[str, list[Picture]] | None = None,
) -> str:
    """HTML of the general tables, then of each method's tables and pictures; overall: pictures that follow some of the
    former, by title."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"text": text, "slug": lambda title: re.sub(r"\W+", "-", title.lower())}
    environment.tests["beside"] = lambda cell: isinstance(cell, Beside)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(title=title, general=general, methods=methods, overall=overall or {})


def pictures(found: Found, results: Path, model: Path) -> list[Picture]:
    """The existing pictures of a method, as data URIs."""
    return embedded(captions(found, results, model))


def captions(found: Found, results: Path, model: Path) -> dict[Path, str]:
    """The pictures that a method may have, and their captions: training, samples, measurements."""
    listed = {model / "curves.png": "Training: means since the last record, and scores of the validation images."}
    newest = disk.newest(model / "grids")
    listed |= {file: f"Training, last record: {name.replace('_', ' ')}." for name, file in newest.items()}
    for recipe, scores in found.samples.items():
        rows = "the first ones" if scores.label_consistency is None else "a row for each class"
        listed[results / f"samples/pictures/{recipe}.png"] = f"Samples by {recipe}, {rows}."
        listed[results / f"samples/pictures/{recipe}_strip.png"] = f"The stages of {recipe}, from top to bottom."
    for name, report in ((name, m.report) for name, m in MEASUREMENTS.items() if m.picture):
        listed[results / f"{name}.png"] = report.caption
        listed |= {results / f"{name}_{key}.png": caption for key, caption in report.sheets.items()}
    return listed


def embedded(listed: dict[Path, str]) -> list[Picture]:
    """The existing pictures, as data URIs."""
    from advebm.data.images import picture

    made = []
    for path, caption in listed.items():
        if path.exists():
            content = io.BytesIO()
            with picture(path) as image:
                size = image.size
                image.convert("RGB").quantize(COLORS).save(content, "PNG", optimize=True)
            source = "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
            made.append(Picture(caption, source, *size))
    return made
