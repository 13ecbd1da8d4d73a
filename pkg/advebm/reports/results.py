"""The results of a method, read from its files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from advebm.evaluation import MEASUREMENTS, Measurement
from advebm.evaluation.quality import Scores
from advebm.runtime.disk import read_json


@dataclass
class Found:
    """The results of a method, and the recoveries of its training."""

    of: dict[str, Any]  # by name of the measurement, if it was measured
    recoveries: list[dict[str, Any]]  # from divergence

    @property
    def samples(self) -> dict[str, Scores]:
        """The quality of its images, by recipe, and of the replay buffer."""
        return self.of["quality"].named if "quality" in self.of else {}


def measured(results: Path, model: Path, *, partial: bool = False) -> Found:
    """The results in a method's folder, and the recoveries in its model's folder. With `partial`, required results may be
    missing. Raises FileNotFoundError or ValueError that names the file and the command to run."""
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
        raise ValueError(f"{file}: {where} is missing or wrong; run `advebm {measurement.name}` again") from error
