"""The project's folder, the locks in it, and digests of specifications."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any


def root() -> Path:
    """The project's folder: DVC passes it to a stage in DVC_ROOT, also where the stage runs in a copy."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()


def data_root(given: Path | None = None) -> Path:
    """Where data sets lie: `given`, ADVEBM_DATA, or data/raw; relative paths are the project's."""
    return root() / (given or os.environ.get("ADVEBM_DATA") or Path("data", "raw"))


def lock(out: Path) -> Path:
    """The file that a process which writes `out` keeps locked."""
    return root() / "state" / "locks" / f"{digest(str(out.resolve()))[:16]}.lock"


def digest(entry: Any) -> str:
    """sha256 of the entry as JSON: identifies a specification."""
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()
