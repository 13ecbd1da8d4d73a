"""Whether a training by one step has overfitted to its attack, by its records."""

import csv
from collections.abc import Iterable, Mapping
from math import nan
from pathlib import Path
from typing import NamedTuple

from advebm.runtime.disk import read_text

FALL = 0.15  # of the accuracy under PGD: four standard errors of that of 200 images


class Overfitting(NamedTuple):
    step: int
    sign: str


def overfitting(records: Iterable[Mapping[str, float]]) -> Overfitting | None:
    """The first record that shows catastrophic overfitting (Wong et al. 2020, Section 5.4): validation images withstand one
    step, FGSM, more often than at the record of highest accuracy under PGD, and PGD less often by more than FALL. None if
    there is none, or the records have no such accuracies."""
    best, before, since = -1.0, nan, 0
    for record in records:
        step, fgsm, pgd = (record.get(name, nan) for name in ("step", "fgsm/accuracy", "pgd/accuracy"))
        if pgd > best:
            best, before, since = pgd, fgsm, int(step)
        elif best - pgd > FALL and fgsm > before:
            sign = (
                f"training overfitted catastrophically: from step {since} to {step:.0f} the accuracy of validation images "
                f"under PGD fell from {best:.3g} to {pgd:.3g}, and under one step rose from {before:.3g} to {fgsm:.3g}"
            )
            return Overfitting(int(step), sign)
    return None


def records(curves: Path) -> list[dict[str, float]]:
    """The records of a training in its curves.csv. Raises ValueError for another content."""
    try:
        lines = csv.DictReader(read_text(curves).splitlines())
        return [{name: float(value) for name, value in row.items() if value} | {"step": int(row["step"])} for row in lines]
    except (ValueError, TypeError, KeyError, OverflowError, csv.Error) as error:
        raise ValueError(f"{curves}: is not a table of records ({error}); restore it, or remove it") from error
