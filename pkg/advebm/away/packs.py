"""Files to transfer, in parts of at most 15 MiB: tar files that hold a manifest and files that it lists.

The whole manifest is in every part, so that each can be unpacked without the others. It lists the path, size and sha256 of
each file. Equal files are stored once. A file that is too large for a part is cut into chunks, each in its own part.
"""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from advebm.runtime import disk

PART = 15 * 2**20  # bytes of a part at most; a multiple of tarfile.RECORDSIZE, to which parts are padded
MANIFEST = "manifest"  # start of the member's name; its sha256 follows
CHUNK = re.compile(r"\.chunk-(\d+)-of-(\d+)\Z")  # what follows the path in the name of a chunk
SHA256 = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
SCHEMA = {  # of the keys of a manifest that are read
    "type": "object",
    "required": ["study", "stages", "home", "files"],
    "properties": {
        "study": {"type": "string"},
        "stages": {"type": "object", "additionalProperties": {"type": "object", "required": ["command", "deps", "outs"]}},
        "home": {"type": "object"},
        "files": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["path", "size", "sha256"],
                "properties": {"path": {"type": "string"}, "size": {"type": "integer", "minimum": 0}, "sha256": SHA256},
            },
        },
    },
}


@dataclass
class Part:
    """The content of one tar file: (name, path, first byte, bytes)."""

    left: int
    members: list[tuple[str, Path, int, int]] = field(default_factory=list)

    def put(self, name: str, path: Path, start: int, size: int) -> None:
        self.members.append((name, path, start, size))
        self.left -= _cost(size)


def _cost(size: int) -> int:
    """Bytes that a member takes: a header, and its content in whole blocks."""
    return tarfile.BLOCKSIZE * (1 + -(-size // tarfile.BLOCKSIZE))


def file_entry(path: Path, **more: Any) -> dict[str, Any]:
    """A file's entry in the manifest."""
    data = path.read_bytes()
    return {"path": path.as_posix(), "size": len(data), "sha256": hashlib.sha256(data).hexdigest(), **more}


def write(folder: Path, manifest: dict[str, Any]) -> list[Path]:
    """Write the files of manifest["files"], in order, as part-001.tar, ...; previous parts are removed."""
    text = (json.dumps(manifest, indent=1) + "\n").encode()
    parts = divided(manifest["files"], PART - _cost(len(text)) - 2 * tarfile.BLOCKSIZE)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for number, part in enumerate(parts or [Part(0)], 1):
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            _add(tar, f"{MANIFEST}-{hashlib.sha256(text).hexdigest()}.json", text)
            for name, path, start, size in part.members:
                with path.open("rb") as file:
                    file.seek(start)
                    _add(tar, name, file.read(size))
        disk.write(folder / f"part-{number:03d}.tar", data.getvalue())
        written.append(folder / f"part-{number:03d}.tar")
    for old in set(folder.glob("part-*.tar")) - set(written):
        old.unlink()
    return written


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def divided(listed: list[dict[str, Any]], room: int) -> list[Part]:
    """Put each file in the first part that has room for it, and those that are too large in chunks, each alone."""
    parts, kept = [], set()
    for entry in listed:
        if entry["sha256"] in kept:
            continue
        kept.add(entry["sha256"])
        path, size = Path(entry["path"]), entry["size"]
        if _cost(size) > room:
            count = -(-size // (room - 2 * tarfile.BLOCKSIZE))
            each = -(-size // count)
            for i in range(count):
                parts.append(Part(0))
                parts[-1].put(f"{path.as_posix()}.chunk-{i + 1}-of-{count}", path, i * each, min(each, size - i * each))
            continue
        chosen = next((part for part in parts if part.left >= _cost(size)), None)
        if chosen is None:
            parts.append(chosen := Part(room))
        chosen.put(path.as_posix(), path, 0, size)
    return parts


@dataclass
class Pack:
    manifest: dict[str, Any]
    contents: dict[str, Path] = field(default_factory=dict)  # of the files that were received, by their paths
    incomplete: dict[str, str] = field(default_factory=dict)  # files of which only some chunks were, and how many


def read(parts: Iterable[Path], folder: Path) -> Pack:
    """Unpack the parts into a folder, each content under its sha256, and verify them. Raises FileNotFoundError, or
    ValueError if a part is damaged, was not written by `write`, or is of another packing."""
    pack: Pack | None = None
    for part in parts:
        if not part.is_file():
            raise FileNotFoundError(f"{part}: no such file")
        members = _members(part)
        name, text = next(members, ("", b""))
        if name != f"{MANIFEST}-{hashlib.sha256(text).hexdigest()}.json":
            raise ValueError(
                f"{part}: is damaged, or was not written by `advebm away`: its manifest does not match its sha256"
            )
        if pack is None:
            pack, first = Pack(_manifest(text, part)), text
            listed = {entry["path"]: entry["sha256"] for entry in pack.manifest["files"]}
        elif text != first:
            raise ValueError(f"{part}: is of another packing than the first part; give parts of one packing")
        for name, data in members:
            chunk = CHUNK.search(name)
            path = name[: chunk.start()] if chunk else name
            if path not in listed:
                raise ValueError(f"{part}: holds {name}, which its manifest does not list")
            if not chunk and hashlib.sha256(data).hexdigest() != listed[path]:
                raise ValueError(f"{part}: {name} is damaged: its sha256 is not the manifest's; transfer the part again")
            (folder / ".".join([listed[path], *(chunk.groups() if chunk else ())])).write_bytes(data)
    if pack is None:
        raise ValueError("no parts to unpack")
    for entry in pack.manifest["files"]:
        content = folder / entry["sha256"]
        if some := _join(entry, content):
            pack.incomplete[entry["path"]] = some
        elif content.is_file():
            pack.contents[entry["path"]] = content
    return pack


def _members(part: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of a part's members. Raises ValueError if one is no plain file, or if more data follow the last
    one: tarfile stops at a damaged header as it does at the end."""
    try:
        data, end = part.read_bytes(), 0
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for member in tar:
                plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()
                content = tar.extractfile(member) if plain and member.size <= PART else None
                if content is None:
                    raise ValueError(
                        f"{part}: {member.name} is not a plain file of at most {PART} bytes, as `advebm away` writes"
                    )
                yield member.name, content.read()
                end = member.offset + _cost(member.size)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{part}: is damaged ({error}); transfer it again") from error
    if len(data) < end + 2 * tarfile.BLOCKSIZE or any(data[end:]):
        raise ValueError(f"{part}: is damaged (after {end} bytes); transfer it again")


def _manifest(text: bytes, part: Path) -> dict[str, Any]:
    """The manifest, whose paths must stay in the project's folder."""
    from jsonschema import ValidationError, validate

    try:
        manifest = json.loads(text)
        validate(manifest, SCHEMA)
    except (ValueError, ValidationError, RecursionError) as error:
        raise ValueError(f"{part}: its manifest was not written by `advebm away` ({str(error).splitlines()[0]})") from None
    for name in (entry["path"] for entry in manifest["files"]):
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or str(path) != name or "\\" in name:
            raise ValueError(f"{part}: the path {name!r} leads out of the project's folder; nothing is unpacked")
    return manifest


def _join(entry: dict[str, Any], content: Path) -> str:
    """Join the chunks of a file; if some are missing, remove the others and return how many were received. Raises
    ValueError if they are damaged."""
    chunks = {int(file.name.split(".")[1]): file for file in content.parent.glob(f"{content.name}.*")}
    if not chunks:
        return ""
    count = next(iter(chunks.values())).name.split(".")[2]
    complete = len(chunks) >= int(count)
    data = b"".join(chunks[i].read_bytes() for i in sorted(chunks)) if complete else b""
    for file in chunks.values():
        file.unlink()
    if not complete:
        return f"{len(chunks)} of {count} chunks"
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        path = entry["path"]
        raise ValueError(f"{path}: is damaged: its chunks do not match the manifest's sha256; transfer its parts again")
    content.write_bytes(data)
    return ""
