"""Files that a power cut leaves as they were, or as they are to be."""

import os
from pathlib import Path


def force(*paths: Path) -> None:
    """Force files, and what folders list, to the disk."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write(path: Path, data: bytes) -> None:
    """Write a file beside its place and rename it: it is there whole or not at all. Raises OSError."""
    temporary = path.with_name(f"{path.name}.part")
    try:
        temporary.write_bytes(data)
        force(temporary)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    force(path.parent)
