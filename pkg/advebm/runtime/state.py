"""The state from which an interrupted stage resumes: files in state/, outside DVC's outputs, deleted when the stage
completes. Features of images stay in state/features, for all commands that need those of the same images.

Files are written atomically, and their names hold the sha256 of their content: an interruption leaves the previous file,
and damage is detected.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from advebm.runtime import disk, project, ranks, signals
from advebm.runtime.code import reached
from advebm.runtime.parts import Made
from advebm.runtime.seldom import Seldom

GENERATIONS = 2  # of states that are kept
BOUND = 4 * 10**9  # bytes of features that are kept: Inception's of more than 300,000 images


class Good(NamedTuple):
    """Tensors by name, and a description that JSON can hold."""

    tensors: dict[str, Tensor]
    about: dict[str, Any]


class State:
    """The files of a stage with one specification, in their own folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.seldom = Seldom()

    def load(self) -> Good | None:
        """The newest intact state, or None. Damaged ones are reported and removed. All ranks get the leader's."""
        files = sorted(self.folder.glob("*.safetensors"), reverse=True) if ranks.rank() == 0 else []
        return ranks.from_leader(next((content for content in map(_read, files) if content is not None), None))

    def save(self, good: Good, *, always: bool = False) -> None:
        """Save the state from which training resumes, unless the last one is too recent. Only the leader does. Raises
        OSError; the previous states are kept then."""
        if ranks.rank() or not (always or self.seldom.due()):
            return
        with self.seldom.timed():
            files = sorted(self.folder.glob("*.safetensors"))
            number = int(files[-1].name.split("-")[0]) + 1 if files else 0
            _write(self.folder, f"{number:06d}", good)
            for file in files[: 1 - GENERATIONS]:
                file.unlink()

    def part(self, name: str, make: Callable[[], Made]) -> Made:
        """The result of `make`, a tensor or a dict of tensors, computed once: a part of a measurement or of samples,
        saved and found by its name."""
        folder = self.folder / "parts"
        found = _find(folder, name)
        if found is None:
            found = make()
            folder.mkdir(exist_ok=True)
            disk.force(self.folder)
            _put(folder, name, found)
        return found


class Cache:
    """Parts that outlive the command that made them, in a folder that several processes may use at once. They equal what
    would be computed again, so results do not depend on them. Beyond `bound` bytes the least recently used files are
    removed."""

    def __init__(self, folder: Path, code: str = "", bound: int = BOUND):
        self.folder, self.code, self.bound = folder, code, bound

    def part(self, name: str, make: Callable[[], Made]) -> Made:
        """Like State.part. The name must hold all that the part depends on, except the code and torch's version."""
        name = f"{name}, torch {torch.__version__}, code {self.code}"
        with self._alone():
            found = _find(self.folder, name)
        if found is None:
            found = make()
            with self._alone():
                _put(self.folder, name, found)
                self._trim()
        return found

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Within this block no other process reads or changes the folder."""
        lock = self.folder.parent / "locks" / f"{self.folder.name}.lock"
        for folder in (self.folder, lock.parent):
            folder.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            yield

    def _trim(self) -> None:
        """Remove temporary files of killed processes, and the least recently used files until the rest is within the
        bound."""
        for torn in self.folder.glob("*.part"):
            torn.unlink()
        files = {file: file.stat() for file in self.folder.glob("*.safetensors")}
        over = sum(about.st_size for about in files.values()) - self.bound
        for file in sorted(files, key=lambda file: files[file].st_mtime_ns):
            if over <= 0:
                break
            over -= files[file].st_size
            file.unlink()


def features() -> Cache:
    """The saved features of images, which all commands of the project share."""
    return Cache(project.root() / "state" / "features", project.digest(reached(["evaluation.features"])))


@contextmanager
def opened(stage: str, out: Path, key: Any, *modules: str) -> Iterator[State]:
    """The state of a stage that writes `out`, deleted when the block completes, and kept otherwise. It is found again for
    the same `out` by `key`, all that the results depend on, and by the code of the modules that make them and of all that
    these import.

    Within this block SIGINT and SIGTERM raise Stopped. Raises BlockingIOError if another process is writing `out`. Ranks
    share the state, which the leader opens.
    """
    if ranks.rank():
        with signals.raised():
            yield State(ranks.from_leader(out))
            ranks.barrier()
        return
    root, place = project.root() / "state", out.resolve()
    if place.is_relative_to(Path.cwd()):  # the same in the copies of the tree in which DVC runs experiments
        place = place.relative_to(Path.cwd())
    code = reached(name.removeprefix("advebm.") for name in modules)
    digest = project.digest({"key": key, "out": str(place), "code": code, "torch": torch.__version__})[:16]
    with ExitStack() as stack:
        stack.enter_context(project.locked(out))
        for slot in count():  # the same work in another copy of the tree has its own slot
            folder = root / f"{stage}-{digest}-{slot}"
            try:
                stack.enter_context(FileLock(root / "locks" / f"{folder.name}.lock", timeout=0))
                break
            except Timeout:
                continue
        folder.mkdir(exist_ok=True)
        disk.force(root.parent, root)
        for torn in folder.rglob("*.part"):
            torn.unlink()
        stack.enter_context(signals.raised())
        yield State(ranks.from_leader(folder))
        ranks.barrier()
        disk.force(out.parent, out, *out.rglob("*"))  # before the state is removed
        shutil.rmtree(folder)


def _find(folder: Path, name: str) -> Any:
    """The saved part of that name, marked as used now; None if there is no intact one."""
    for file in folder.glob(f"{_prefix(name)}-*.safetensors"):
        content = _read(file)
        if content is not None and content.about["name"] == name:
            os.utime(file)
            return content.tensors.get("", content.tensors)
    return None


def _put(folder: Path, name: str, made: Made) -> None:
    _write(folder, _prefix(name), Good({"": made} if isinstance(made, Tensor) else made, {"name": name}))


def _prefix(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def _write(folder: Path, prefix: str, content: Good) -> None:
    """Write PREFIX-SHA256.safetensors atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in content.tensors.items()}
    data = save(tensors, {"advebm": json.dumps(content.about)})
    disk.write(folder / f"{prefix}-{hashlib.sha256(data).hexdigest()}.safetensors", data)


def _read(file: Path) -> Good | None:
    """The content of a file; None if it is damaged: it is then reported and removed."""
    data = file.read_bytes()
    try:
        if hashlib.sha256(data).hexdigest() == file.stem.split("-")[1]:
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            return Good(load(data), json.loads(header["__metadata__"]["advebm"]))
    except (SafetensorError, ValueError, KeyError):
        pass
    print(f"advebm: {file}: is damaged and was removed; resuming from the previous state", file=sys.stderr)
    file.unlink()
    return None
