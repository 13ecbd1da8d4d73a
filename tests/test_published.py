"""published.yaml against a second transcription of the papers' tables, tests/published/."""

import csv
import re
from pathlib import Path

import yaml

from advebm import config
from advebm.methods import METHODS
from advebm.reports.papers import DATA, PUBLISHED, line, printed_fid

TABLES = yaml.safe_load(PUBLISHED.read_text())


def transcribed(name):
    """The lines of a table by row and data."""
    path = Path(__file__).parent / "published" / f"{name.lower().replace(' ', '_')}.csv"
    with path.open(newline="") as file:
        return {(cells["row"], cells.get("data", DATA)): cells for cells in csv.DictReader(file)}


def test_every_number_is_in_its_table_row_and_column():
    for table in TABLES:
        printed = transcribed(table["name"])
        assert [(row["row"], row.get("data", DATA)) for row in table["rows"]] == list(printed), table["name"]
        for row in table["rows"]:
            cells = printed[row["row"], row.get("data", DATA)]
            theirs = {column: cells[heading] for column, heading in table["columns"].items() if cells[heading]}
            assert row["printed"] == {column: float(cell) for column, cell in theirs.items()}, (table["name"], row["row"])


def test_every_transcribed_column_is_claimed_and_has_a_source():
    for table in TABLES:
        for cells in transcribed(table["name"]).values():
            assert {*cells} - {"row", "data", "note", "source"} == {*table["columns"].values()}
            assert re.match("notes|audit", cells["source"])
    files = {path.stem for path in (Path(__file__).parent / "published").glob("*.csv")}
    assert files == {table["name"].lower().replace(" ", "_") for table in TABLES}


def test_results_named_in_notes_are_transcribed_too():
    for table in TABLES:
        printed = transcribed(table["name"])
        for row in table["rows"]:
            for number in re.findall(r"\d+\.\d+|\d+%", row.get("note", "")):
                assert number in printed[row["row"], row.get("data", DATA)]["note"]


def test_the_published_tables_fit_together():
    sets = config.read(Path("params.yaml"), "cifar10")["data"]["out"]
    known = {"clean", "robust", "ordinary", "energy", "is", "fid", "jfs", "mfs", *sets, *(f"{name} worst" for name in sets)}
    cells = {}
    for table in TABLES:
        assert set(table["columns"]) <= known
        for row in table["rows"]:
            assert row["method"] in METHODS and set(row["printed"]) <= set(table["columns"])
            for column, cell in row["printed"].items():
                cells.setdefault((row["row"], row.get("data"), column), set()).add(cell)
    assert [table["name"] for table in TABLES] == [
        *("RJ Table 1", "JT Table 1", "JT Table 2", "JT Table 3", "AE Table 2", "AE Table 4")
    ]
    differ = {key[0::2]: values for key, values in cells.items() if len(values) > 1}
    assert differ == {("JEM", "is"): {8.66, 8.76}}, "with this exception the papers agree on each model"


def test_a_number_that_a_paper_does_not_print_stays_empty():
    table = next(table for table in TABLES if table["name"] == "AE Table 2")
    row = next(row for row in table["rows"] if row["row"] == "Robust classifier")
    assert line(row, list(table["columns"]), None)[2:4] == [(None, 7.5), (None, None)]


def test_the_first_table_with_a_fid_names_it():
    printed = printed_fid()
    assert printed["jem", "sgld"] == "38.4 (JT Table 2)" and printed["at", "targeted"] == "85.12 (RJ Table 1)"
    assert printed["igebm", "sgld"] == "38.2 (AE Table 2)" and ("standard", "targeted") not in printed
