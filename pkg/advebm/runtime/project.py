"""The project's folder, its locks, and digests of specifications."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any


def root() -> Path:
    """The project's folder: DVC passes it to stages in DVC_ROOT, even where they run in a copy."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()


def data_root(given: Path | None = None) -> Path:
    """The folder of data sets: `given`, ADVEBM_DATA, or data/raw; relative paths start at the project's folder."""
    return root() / (given or os.environ.get("ADVEBM_DATA") or Path("data", "raw"))


def lock(out: Path) -> Path:
    """The file that a process locks while it writes `out`."""
    return root() / "state" / "locks" / f"{digest(str(out.resolve()))[:16]}.lock"


def digest(entry: Any) -> str:
    """sha256 of the entry as JSON, which identifies a specification."""
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()
