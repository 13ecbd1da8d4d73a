"""What was measured of a method, read from its files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from advebm.evaluation import MEASUREMENTS, Measurement
from advebm.evaluation.quality import Scores
from advebm.runtime.disk import read_json


@dataclass
class Found:
    """The results of a method, and how its training went."""

    of: dict[str, Any]  # by the measurement's name; only what was measured
    recoveries: list[dict[str, Any]]  # from divergence

    @property
    def samples(self) -> dict[str, Scores]:
        """The quality of its images: each recipe's and the replay buffer's."""
        return self.of["quality"].named if "quality" in self.of else {}


def measured(results: Path, model: Path, *, partial: bool = False) -> Found:
    """What lies in a method's folders of results and of its model; with `partial` required results may be missing. Raises
    FileNotFoundError or ValueError that names the file and the command that makes it."""
    found = {}
    for name, measurement in MEASUREMENTS.items():
        file = results / f"{name}.json"
        if file.is_file() or (measurement.required and not partial):
            content = read_json(file, name)
            if content:  # {} where the study leaves it out
                found[name] = _read(measurement, file, content)
    diverged = model / "recoveries.json"
    return Found(found, read_json(diverged, "train")["recoveries"] if diverged.is_file() else [])


def _read(measurement: Measurement, file: Path, content: dict[str, Any]) -> Any:
    try:
        return measurement.result.read(content)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"] if part != "named")
        raise ValueError(f"{file}: lacks {where}, or has it wrong; run `advebm {measurement.name}` again") from error
