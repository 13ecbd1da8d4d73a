"""state/outbox: what MLflow has not received, in a folder for each stage, its box. Stages only write boxes; tracking.py
sends them.

A box that is damaged is reported and moved to state/damaged. It holds up neither its stage nor other boxes.
"""

import json
import shutil
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from advebm.runtime import disk, project


def root() -> Path:
    return project.root() / "state" / "outbox"


class Box:
    """What one stage logs: events.jsonl, copies of files, and the number of events sent. Raises ValueError if the events
    are damaged. If the number sent is damaged, all are sent again: MLflow keeps each value once."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.journal, self.mark = folder / "events.jsonl", folder / "sent.json"
        self.events = parse(self.journal.read_bytes()) if self.journal.exists() else []
        if self.events and self.events[0][0] != "begin":
            raise ValueError("the first record is not that of a stage's begin")
        self.sent, self.run_id = 0, ""
        with suppress(ValueError, OSError):
            ((self.sent, self.run_id),) = parse(self.mark.read_bytes())

    @property
    def ended(self) -> bool:
        return bool(self.events) and self.events[-1][0] == "end"

    def put(self, kind: str, *content: Any) -> None:
        with self.journal.open("ab") as file:
            file.write(line([kind, *content]))
        disk.force(self.journal)
        self.events.append([kind, *content])

    def artifact(self, path: Path, folder: str | None) -> None:
        copy = self.folder / str(len(self.events)) / path.name
        copy.parent.mkdir()
        shutil.copyfile(path, copy)
        disk.force(self.folder, copy.parent, copy)
        self.put("artifact", str(copy.relative_to(self.folder)), folder)

    def note(self) -> None:
        """Save how many events were sent."""
        disk.write(self.mark, line([self.sent, self.run_id]))

    def remove(self) -> None:
        """Remove the box, unless its stage is running."""
        with suppress(Timeout), FileLock(self.folder / "lock", timeout=0):
            if Box(self.folder).events == self.events:  # otherwise the stage has been resumed
                shutil.rmtree(self.folder)


def line(event: list[Any]) -> bytes:
    """An event as a line, after its checksum."""
    content = json.dumps(event).encode()
    return f"{zlib.crc32(content):08x} ".encode() + content + b"\n"


def parse(journal: bytes) -> list[list[Any]]:
    """The events in a journal, except an incomplete last one. Raises ValueError if a line is damaged."""
    events = []
    for number, text in enumerate(journal.split(b"\n")[:-1], 1):
        checksum, _, content = text.partition(b" ")
        if checksum != f"{zlib.crc32(content):08x}".encode():
            raise ValueError(f"line {number} does not match its checksum")
        events.append(json.loads(content))
    return events


@contextmanager
def writing(uid: str) -> Iterator[Box]:
    """The box of a stage, which counts as running within this block."""
    folder = root() / uid
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock") as lock:
            if not Path(lock.lock_file).exists():  # the box was sent and removed meanwhile
                continue
            disk.force(root().parent, root())
            box = _read(folder) or Box(folder)
            found = box.journal.read_bytes() if box.journal.exists() else None
            complete = found[: found.rfind(b"\n") + 1] if found else b""
            if complete != found:  # it is new, or its last line is incomplete
                disk.write(box.journal, complete)
            yield box
            return


def boxes() -> Iterator[Box]:
    """All boxes with events, oldest first. Damaged ones are set aside, once their stage is not running."""
    for journal in sorted(root().glob("*/events.jsonl")):
        try:
            box = Box(journal.parent)
        except (ValueError, OSError):
            with suppress(Timeout), FileLock(journal.parent / "lock", timeout=0):
                _read(journal.parent)
            continue
        if box.events:
            yield box


def _read(folder: Path) -> Box | None:
    """The box; None if it is damaged: its files are then set aside. The caller holds its lock."""
    try:
        return Box(folder)
    except (ValueError, OSError) as error:
        aside = root().parent / "damaged" / f"{folder.name}-{time.time_ns():x}"
        aside.mkdir(parents=True)
        for file in folder.iterdir():
            if file.name != "lock":
                file.rename(aside / file.name)
        print(f"advebm: {folder}: its records for MLflow are damaged ({error}) and were moved to {aside}", file=sys.stderr)
        return None


def supersede(about: dict[str, Any]) -> None:
    """End what a stage that begins anew makes obsolete: boxes of interrupted measurements, which never resume, and of
    interrupted trainings of the same model."""
    for box in boxes():
        known = box.events[0][1]
        other = any(known[key] != about[key] for key in ("stage", "study", "method", "params"))
        if box.ended or (known["stage"] == "train" and other):
            continue
        with suppress(Timeout), FileLock(box.folder / "lock", timeout=0):
            box.put("end", "KILLED")
            print(
                f"advebm: MLflow: {box.folder}: was interrupted and is superseded; its run ends as KILLED", file=sys.stderr
            )


def waiting(study: str) -> list[Path]:
    """The files of the study's boxes, oldest stage first."""
    found: list[Path] = []
    for box in boxes():
        if box.events[0][1]["study"] == study:
            files = (file for file in sorted(box.folder.rglob("*")) if file.is_file())
            found += [file for file in files if file.name not in ("lock", "sent.json")]
    return found


def receive(uid: str, files: dict[str, Path]) -> None:
    """Put a stage's records from another machine into the outbox; `files` are by their names in the stage's folder.
    Records received before are not sent again."""
    journal = files["events.jsonl"].read_bytes()
    if received(uid, journal):
        return
    folder = root() / uid
    with writing(uid):
        for name in sorted(files, key="events.jsonl".__eq__):  # that one last, after the files that it names
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            disk.write(folder / name, files[name].read_bytes())
    disk.write(_counts(), json.dumps(_received() | {uid: journal.count(b"\n")}, indent=1).encode())


def received(uid: str, journal: bytes) -> bool:
    """Whether all records in a stage's events.jsonl were received before."""
    return journal.count(b"\n") <= _received().get(uid, 0)


def _counts() -> Path:
    return root().parent / "received.json"


def _received() -> dict[str, int]:
    """The number of events received from each stage, by its uid. A damaged file is reported and removed: what is received
    again is then sent again, and MLflow keeps each value once."""
    try:
        counts = json.loads(_counts().read_text())
        if isinstance(counts, dict) and all(type(count) is int for count in counts.values()):
            return counts
    except FileNotFoundError:
        return {}
    except ValueError:
        pass
    print(f"advebm: {_counts()}: is damaged and was removed; records received before may be sent again", file=sys.stderr)
    _counts().unlink()
    return {}


def checkpoints(journal: bytes) -> tuple[str | None, str | None]:
    """From a stage's events.jsonl: sha256 of the model that it measured, and of the one that it trained; None if it did
    not. Raises ValueError if it is damaged."""
    events = parse(journal)
    return events[0][1]["checkpoint"] if events else None, trained(events)


def trained(events: list[list[Any]]) -> str | None:
    """sha256 of the model that a stage has trained."""
    made = [event[1]["checkpoint.sha256"] for event in events if event[0] == "tags" and "checkpoint.sha256" in event[1]]
    return made[-1] if made else None
