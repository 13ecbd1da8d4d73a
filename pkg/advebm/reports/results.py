"""The results of a method, read from its files."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from advebm.evaluation import MEASUREMENTS
from advebm.evaluation.overfitting import overfitting, records
from advebm.evaluation.quality import QualityResult, Scores
from advebm.evaluation.result import Result
from advebm.runtime.disk import read_json

R = TypeVar("R", bound=Result)


@dataclass(kw_only=True)
class Recovery:
    """Training diverged at a step and resumed from an earlier one."""

    event: str  # how it diverged, in words
    step: int
    back_to: int


@dataclass(kw_only=True)
class Recoveries(Result):
    """The content of recoveries.json."""

    recoveries: list[Recovery]


@dataclass
class Found:
    """The results of a method, and what went wrong in its training."""

    of: dict[str, Result]  # by name of the measurement, if it was measured
    recoveries: list[Recovery]
    overfitted: str | None = None  # catastrophically, in words

    def get(self, kind: type[R]) -> R | None:
        """The result of that kind, if it was measured."""
        return next((result for result in self.of.values() if isinstance(result, kind)), None)

    def __getitem__(self, kind: type[R]) -> R:
        """The result of that kind, which must have been measured."""
        result = self.get(kind)
        assert result is not None, f"no {kind.__name__}"
        return result

    @property
    def samples(self) -> dict[str, Scores]:
        """The quality of its images, by recipe, and of the replay buffer."""
        quality = self.get(QualityResult)
        return quality.named if quality else {}


def measured(results: Path, model: Path | None = None, *, partial: bool = False, apart: bool = False) -> Found:
    """The results in a method's folder, and what went wrong in training by its model's folder, if one is given. With
    `partial`, required results may be missing; with `apart`, those made for the comparison alone are read too. Raises
    FileNotFoundError or ValueError that names the file and the command to run."""
    found = {}
    for name, measurement in MEASUREMENTS.items():
        file, required = results / f"{name}.json", measurement.required and not partial
        if measurement.apart:
            file = results.parent / name / f"{results.name}.json"
            if not apart:
                continue
        content = read_json(file, name) if required or file.exists() else {}
        if required or content:  # {} where the study leaves it out
            found[name] = measurement.result.checked(content, file, name)
    if model is None:
        return Found(found, [])
    diverged, curves = model / "recoveries.json", model / "curves.csv"
    sign = overfitting(records(curves)) if curves.exists() else None
    recoveries = Recoveries.load(diverged, "train").recoveries if diverged.exists() else []
    return Found(found, recoveries, sign and sign.sign)
