"""All methods of a study side by side."""

from pathlib import Path

from advebm.evaluation import MEASUREMENTS
from advebm.evaluation.ood import OodResult
from advebm.evaluation.quality import BUFFER, QualityResult
from advebm.reports import detectors, ood, quality
from advebm.reports.base import Numbers
from advebm.reports.results import Found
from advebm.reports.tables import Table

APART = ("quality", "ood", "scores")  # have tables of their own: generation and detection


def lacks(results: Path) -> list[str]:
    """The required files that are missing from a method's folder."""
    required = [f"{name}.json" for name, measurement in MEASUREMENTS.items() if measurement.required]
    return [name for name in required if not (results / name).is_file()]


def unsampled(found: Found, results: Path) -> list[str]:
    """The files of scored samples that are missing."""
    files = [f"samples/{name}.npz" for name in found.samples if name != BUFFER]
    return [file for file in files if not (results / file).is_file()]


def rows(found: dict[str, Found]) -> dict[str, Numbers]:
    """The rows of comparison.json: each method and recipe, and the baselines of sample quality."""
    lines = {
        method if recipe is None else f"{method}/{recipe}": row(content, recipe)
        for method, content in found.items()
        for recipe in content.samples or [None]
    }
    first = next(iter(found.values()))
    return lines | {name: quality.summary(scores) for name, scores in quality.ends(first[QualityResult]).items()}


def row(found: Found, recipe: str | None) -> Numbers:
    """A row: the numbers of a method, and of the samples of one of its recipes."""
    numbers: Numbers = {}
    for name in (name for name in MEASUREMENTS if name not in APART):
        report = MEASUREMENTS[name].report
        numbers |= dict.fromkeys(report.columns) | (report.summary(found.of[name]) if name in found.of else {})
    images = quality.summary(found.samples.get(recipe) if recipe else None)
    return numbers | images | ood.REPORT.summary(found[OodResult])


def overview(found: dict[str, Found], *notes: str) -> list[Table]:
    """Every method as a classifier, as a generator and as a detector; notes: further notes under the first table."""
    first = next(iter(found.values()))
    images = {f"{method}/{recipe}": s for method, content in found.items() for recipe, s in content.samples.items()}
    generation = quality.samples(images | quality.ends(first[QualityResult]))
    outside = {method: content[OodResult] for method, content in found.items()}
    detection = [detectors.detection(outside), *detectors.attacked(outside)]
    return [classification(found, *filter(None, notes)), generation, *detection]


def classification(found: dict[str, Found], *notes: str) -> Table:
    """A row for each method, with the numbers of comparison.json that are not in the other tables."""
    lines: dict[str, Numbers] = {method: {} for method in found}
    described = []
    for name, measurement in MEASUREMENTS.items():
        results = {method: content.of[name] for method, content in found.items() if name in content.of}
        if name in APART or not results:
            continue
        for method, result in results.items():
            lines[method] |= measurement.report.summary(result)
        described.append(measurement.report.note(results.values()))
    keys = list(dict.fromkeys(key for numbers in lines.values() for key in numbers))
    table = [[method, *map(numbers.get, keys)] for method, numbers in lines.items()]
    return Table("Classification", ["method", *keys], table, (*filter(None, described), *notes))
