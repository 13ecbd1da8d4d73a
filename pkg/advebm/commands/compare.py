"""All methods of a study side by side."""

import json
from pathlib import Path
from typing import Annotated

from typer import Option

from advebm import config
from advebm.commands import options as o
from advebm.reports.page import page, pictures
from advebm.reports.papers import papers
from advebm.reports.results import BUFFER, NEEDED, Found, fisher_score, measured, read_json, scored
from advebm.reports.sections import ends, samples, sections
from advebm.reports.tables import Table, document

ASCENDS = {"ce": "up the cross-entropy", "energy": "up E(x, y)", "target": "to another class"}
QUALITY = ("fid", "kid_mean", "is_mean", "precision", "recall", "label_consistency")


def compare(
    results: Annotated[Path, Option(help="folder with a sub-folder for each method")],
    models: Annotated[Path, Option(help="folder with a sub-folder for each method")],
    out: Annotated[Path, Option(help="the JSON file to write; Markdown, picture and web page lie beside it")],
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
) -> None:
    """Write all methods of a study side by side, the papers' tables beside what was measured, and one web page of all
    tables and pictures."""
    entry = config.read(params, study)
    methods = [method for method in entry["models"] if any(results.glob(f"{method}/*"))]  # DVC leaves empty folders
    lacking = {method: lacks(results / method) for method in methods}
    left_out = "; ".join(f"{method}, which lacks {', '.join(files)}" for method, files in lacking.items() if files)
    methods = [method for method in methods if not lacking[method]]
    if not methods:
        what = f" but {left_out}" if left_out else ""
        raise FileNotFoundError(f"{results}: no results of a method there{what}; `dvc repro -P` makes them")
    from advebm import figures
    from advebm.commands.sample import sampled

    found = {method: measured(results / method, models / method) for method in methods}
    rows, sheets = {}, {}
    for method, numbers in found.items():
        for recipe in scored(numbers) or [None]:
            rows[method if recipe is None else f"{method}/{recipe}"] = row(numbers, recipe)
        made = sampled(results / method / "samples", [recipe for recipe in scored(numbers) if recipe != BUFFER])
        sheets |= {f"{method}/{recipe}": content.x for recipe, content in made.items()}
    rows |= {name: {key: entry.get(key) for key in QUALITY} for name, entry in ends(found[methods[0]]).items()}
    general = [*overview(found, f"Left out: {left_out}." if left_out else ""), *papers(study, entry["data"], found)]
    text = document(f"{study}: every method", general)
    shown = {
        method: (sections(numbers), pictures(numbers, results / method, models / method))
        for method, numbers in found.items()
    }

    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(rows, indent=1) + "\n")
    out.with_suffix(".md").write_text(text, encoding="utf-8")
    if sheets:
        figures.sheets(sheets, out.with_suffix(".png"), f"{study}: the first samples of each method and recipe")
    out.with_suffix(".html").write_text(page(study, general, out.with_suffix(".png"), shown), encoding="utf-8")
    print(text)


def lacks(results: Path) -> list[str]:
    """What is not in a method's folder of what a comparison needs."""
    numbers = [f"{name}.json" for name in NEEDED if not (results / f"{name}.json").is_file()]
    if numbers:
        return numbers
    names = scored({"quality": read_json(results / "quality.json", "quality")})
    files = [f"samples/{name}.npz" for name in names if name != BUFFER]
    return [file for file in files if not (results / file).is_file()]


def row(found: Found, recipe: str | None) -> dict[str, float | None]:
    """A line of comparison.json: what was measured of a method, and of the samples of one of its recipes."""
    robust, quality = found["robustness"], scored(found).get(recipe, {})
    return {
        "clean": robust["clean"],
        **{name: attack["accuracy"] for name, attack in robust["attacks"].items()},
        **{f"autoattack {norm}": found["autoattack"].get(norm, {}).get("accuracy") for norm in ("linf", "l2")},
        "ece": found["calibration"].get("ece"),
        "jfs": fisher_score(found, "joint"),
        "mfs": fisher_score(found, "marginal"),
        **{key: quality.get(key) for key in QUALITY},
        **{f"auc {name}": entry["auc"] for name, entry in found["ood"].items()},
        **{f"worst {name}": entry["auc_worst"] for name, entry in found["ood"].items()},
    }


def overview(found: dict[str, Found], *notes: str) -> list[Table]:
    """Every method as a classifier, as a generator and as a detector; notes: more of these under the first table."""
    images = {f"{method}/{recipe}": s for method, content in found.items() for recipe, s in scored(content).items()}
    first = classification(found)
    first = first._replace(notes=(*first.notes, *filter(None, notes)))
    return [first, samples(images | ends(next(iter(found.values())))), detection(found)]


def classification(found: dict[str, Found]) -> Table:
    """A line for each method; the columns go by comparison.json's names."""
    attacks = {name: a for content in found.values() for name, a in content["robustness"]["attacks"].items()}
    balls = {norm: a for content in found.values() for norm, a in content["autoattack"].items() if isinstance(a, dict)}
    keys = ["clean", *attacks, *(f"autoattack {norm}" for norm in balls), "ece", "jfs", "mfs"]
    rows = []
    for method, content in found.items():
        values = row(content, None)
        rows.append([method, *map(values.get, keys), content["robustness"]["n"], content["autoattack"].get("n")])
    described = [
        f"{name}: {a['norm']} {a['eps']:.3g}, {a['steps']} steps {ASCENDS[a['ascends']]}, best of {a['restarts']}"
        for name, a in attacks.items()
    ]
    described += [f"autoattack {norm}: {a['eps']:.3g}" for norm, a in balls.items()]
    notes = [
        f"Accuracy on test images; {'; '.join(described)}.",
        "ece: expected calibration error. jfs, mfs: joint and marginal Fisher score, pixels in [0, 1].",
    ]
    return Table("Classification", ["method", *keys, "n", "n of autoattack"], rows, tuple(notes))


def detection(found: dict[str, Found]) -> Table:
    """A line for each method, by its detector's own score."""
    sets = dict.fromkeys(name for content in found.values() for name in content["ood"])
    keys = [f"{kind} {name}" for kind in ("auc", "worst") for name in sets]
    rows, radii = [], {}
    for method, content in found.items():
        first = next(iter(content["ood"].values()))
        norm, worst = next(iter(first["scores"][first["score"]]["worst"].items()))
        radii[f"{norm} {worst['eps']:.3g}"] = None
        rows.append([method, first["score"], *map(row(content, None).get, keys), first["n"]])
    note = f"AUC of test images against each set; worst: its images moved within {', '.join(radii)} to look like data."
    return Table("Detection", ["method", "score", *keys, "n"], rows, (note,))
