"""Files written atomically, even if the power is cut, and read within bounds, whatever they are."""

import hashlib
import json
import math
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any

TEXT = 2**26  # bytes of a file of params, results or records at most


def force(*paths: Path) -> None:
    """Force files, and the entries of folders, to the disk."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def newest(folder: Path) -> dict[str, Path]:
    """The pictures KIND_STEP.png of a folder with the greatest step of each kind."""
    in_time = sorted(folder.glob("*.png"), key=lambda file: (len(file.name), file.name))
    return {file.stem.rpartition("_")[0]: file for file in in_time}


def write(path: Path, data: bytes) -> None:
    """Write a file atomically, by renaming a temporary file. Raises OSError."""
    temporary = path.with_name(f"{path.name}.part")
    try:
        temporary.write_bytes(data)
        force(temporary)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    force(path.parent)


def clear(folder: Path, *patterns: str) -> None:
    """Remove the files in a folder that match a pattern: what an earlier run of a command wrote there."""
    for file in [file for pattern in patterns for file in folder.glob(pattern)]:
        file.unlink()
    if folder.is_dir():
        force(folder)


def opened(path: Path) -> BufferedReader:
    """The file, open for reading. Raises ValueError if it is not a regular file: a pipe or a device may never end."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ValueError(f"{path}: is not a regular file")
    return os.fdopen(handle, "rb")


def read_text(path: Path) -> str:
    """The text of a file in UTF-8. Raises OSError, or ValueError if it is not a regular file, not UTF-8 or very large."""
    with opened(path) as file:
        data = file.read(TEXT + 1)
    if len(data) > TEXT:
        raise ValueError(f"{path}: is larger than {TEXT} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not text in UTF-8 ({error})") from error


def write_json(file: Path, content: Any, *, sealed: bool = False) -> None:
    """Write a JSON file; sealed: an object that a command reads again, with its checksum. Raises ValueError, and writes
    nothing, where a number is not finite: JSON has no NaN."""
    if (wrong := not_finite(content)) is not None:
        keys, _ = wrong
        raise ValueError(f"{file}: {'.'.join(keys)} is not a finite number; the network or its samples have diverged")
    file.parent.mkdir(parents=True, exist_ok=True)
    if sealed:
        content |= {"checksum": _checksum(content)}
    file.write_text(json.dumps(content, indent=1) + "\n")


def _checksum(content: dict[str, Any]) -> str:
    """sha256 of an object, whatever the order of its keys."""
    plain = json.loads(json.dumps(content))  # keys as text
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def not_finite(content: Any) -> tuple[list[str], float] | None:
    """The first number that is not finite, after the keys that lead to it."""
    if isinstance(content, float):
        return None if math.isfinite(content) else ([], content)
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in inner:
        if (below := not_finite(value)) is not None:
            return [str(key), *below[0]], below[1]
    return None


def write_report(file: Path, numbers: Any, text: str) -> None:
    """Write the numbers as JSON and, with the same name, the text as Markdown; print the text."""
    write_json(file, numbers)
    file.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


def read_json(file: Path, command: str) -> dict[str, Any]:
    """Read the object that a command wrote, and compare its checksum, if it has one. Raises FileNotFoundError or
    ValueError with the file and the command."""
    try:
        content = json.loads(read_text(file))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{file}: not there; `advebm {command}` makes it") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: is damaged ({error}); run `advebm {command}` again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file}: is damaged (not an object); run `advebm {command}` again")
    if content.pop("checksum", None) not in (None, _checksum(content)):
        raise ValueError(f"{file}: was altered, its checksum is another; run `advebm {command}` again")
    return content
