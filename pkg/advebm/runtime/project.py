"""The project's folder, its locks, and digests of specifications."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout


def root() -> Path:
    """The project's folder: DVC passes it to stages in DVC_ROOT, even where they run in a copy."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()


def data_root(given: Path | None = None) -> Path:
    """The folder of data sets: `given`, ADVEBM_DATA, or data/raw; relative paths start at the project's folder."""
    return root() / (given or os.environ.get("ADVEBM_DATA") or Path("data", "raw"))


def lock(out: Path) -> Path:
    """The file that a process locks while it writes `out`. It is beside it: other projects may write there, too."""
    place = out.resolve()
    return place.with_name(f".{place.name}.lock")


@contextmanager
def locked(*outs: Path) -> Iterator[None]:
    """Within this block no other process that locks its outputs writes these. The system releases a lock when the process
    ends in any way, and its file is removed unless the process is killed. Raises BlockingIOError if another process is
    writing them."""
    with ExitStack() as stack:
        for file, out in {lock(out): out for out in outs}.items():
            stack.callback(_tidy, [folder for folder in file.parents if not folder.exists()])
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(FileLock(file, timeout=0))
            except Timeout:
                raise BlockingIOError(f"{out}: another process is writing it; wait for it, or stop it") from None
            stack.callback(file.unlink, missing_ok=True)
        yield


def _tidy(folders: list[Path]) -> None:
    """Remove folders that were made for a lock, innermost first, up to one that is not empty."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def digest(entry: Any) -> str:
    """sha256 of the entry as JSON, which identifies a specification."""
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()
