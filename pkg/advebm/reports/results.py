"""The results of a method, read from its files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advebm.evaluation import MEASUREMENTS
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


def measured(results: Path, model: Path | None = None, *, partial: bool = False) -> Found:
    """The results in a method's folder, and the recoveries in its model's folder, if one is given. With `partial`, required
    results may be missing. Raises FileNotFoundError or ValueError that names the file and the command to run."""
    found = {}
    for name, measurement in MEASUREMENTS.items():
        file, required = results / f"{name}.json", measurement.required and not partial
        if required or (file.is_file() and read_json(file, name)):  # {} where the study leaves it out
            found[name] = measurement.result.load(file, name)
    diverged = model / "recoveries.json" if model else None
    return Found(found, read_json(diverged, "train")["recoveries"] if diverged and diverged.is_file() else [])
