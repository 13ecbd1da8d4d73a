"""What was measured of a method, read from its files."""

from pathlib import Path
from typing import Any

from advebm.runtime.disk import read_json

Found = dict[str, dict[str, Any]]  # the contents of a method's files, by name

NEEDED = {"quality": "baselines", "ood": "scores", "robustness": "attacks"}  # a file, and what it must hold
MORE = ("autoattack", "fisher", "calibration", "landscape", "neighbours", "interpolation")  # {} where not measured
BUFFER = "replay_buffer"  # scored like a recipe's samples


def measured(results: Path, model: Path) -> Found:
    """What lies in a method's folders of results and of its model. Raises FileNotFoundError or ValueError, see
    `read_json`."""
    found = {name: read_json(results / f"{name}.json", name) for name in NEEDED}
    for name, key in NEEDED.items():
        if any(key not in part for part in (found[name].values() if name == "ood" else [found[name]])):
            raise ValueError(f"{results / name}.json: lacks {key}; run `advebm {name}` again")
    files = {name: results / f"{name}.json" for name in MORE} | {"training": model / "recoveries.json"}
    return found | {name: read_json(file, name) if file.is_file() else {} for name, file in files.items()}


def scored(found: Found) -> dict[str, dict[str, Any]]:
    """The quality of a method's images: each recipe's and the replay buffer's."""
    return {name: entry for name, entry in found["quality"].items() if name != "baselines"}


def fisher_score(found: Found, kind: str, key: str = "score") -> float | None:
    """A number of the joint or marginal Fisher score."""
    return (found["fisher"].get(kind) or {}).get(key)
