"""The stages of dvc.yaml and stages/**/dvc.yaml, read and run without DVC.

The commands are defined only in those files. As in DVC, a stage is done while its command, inputs and outputs are as they
were when it ended: their sha256 are kept in state/away/.
"""

import ctypes
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import Template
from typing import Any

from advebm.runtime import disk, project

GRACE = 60  # seconds that a stopped stage has to save its state
PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal that a process gets when its parent ends


@dataclass(frozen=True)
class Stage:
    name: str  # train@at
    target: str  # its name in DVC: stages/train/dvc.yaml:train@at
    command: str
    deps: tuple[str, ...]  # all paths start at the project's folder
    outs: tuple[str, ...]

    def now(self) -> dict[str, Any]:
        """The command, and sha256 of the files that it reads and writes; None for those that do not exist."""
        paths = {"deps": self.deps, "outs": self.outs}
        return {"command": self.command} | {key: {path: digest(Path(path)) for path in paths[key]} for key in paths}


def read(study: str, selected: str, methods: Iterable[str], seed: int) -> dict[str, Stage]:
    """All stages of the study by name; selected: the method of report; methods: those that have their own stages. Reads
    the files of the current folder, which must be the project's."""
    from advebm.runtime import yaml12

    general = {"study": study, "method": selected, "seed": str(seed)}
    found = {}
    for file in [Path("dvc.yaml"), *sorted(Path("stages").rglob("dvc.yaml"))]:
        place = "" if file.parent == Path() else f"{file.as_posix()}:"
        for name, entry in yaml12.load(file.read_text())["stages"].items():
            if "foreach" in entry:
                for method in methods:
                    full, values = f"{name}@{method}", general | {"item": method}
                    found[full] = _stage(full, place + full, entry["do"], values)
            else:
                found[name] = _stage(name, place + name, entry, general)
    return found


def _stage(name: str, target: str, entry: dict[str, Any], values: dict[str, str]) -> Stage:
    def paths(*keys: str) -> tuple[str, ...]:
        listed = (path for key in keys for path in entry.get(key, ()))
        return tuple(Template(path if isinstance(path, str) else next(iter(path))).substitute(values) for path in listed)

    command = " ".join(Template(entry["cmd"]).substitute(values).split())
    return Stage(name, target, command, paths("deps"), paths("outs", "metrics"))


def ordered(stages: dict[str, Stage], wanted: Iterable[str]) -> Iterator[Stage]:
    """The wanted stages in order, each after the stages that it depends on."""
    yielded = set()

    def ahead(stage: Stage) -> Iterator[Stage]:
        if stage.name in yielded:
            return
        yielded.add(stage.name)
        for path in stage.deps:
            for other in stages.values():
                if other is not stage and overlap(path, other):
                    yield from ahead(other)
        yield stage

    for name in wanted:
        yield from ahead(stages[name])


def overlap(path: str, stage: Stage) -> bool:
    """Whether the stage writes the path, something in it, or a folder that holds it."""
    return any(within(path, out) or within(out, path) for out in stage.outs)


def needs(stage: Stage, other: Stage) -> bool:
    """Whether the stage depends on what another one writes."""
    return stage is not other and any(overlap(path, other) for path in stage.deps)


def within(path: str, folder: str) -> bool:
    """Whether the path is the folder or in it."""
    return path == folder or path.startswith(f"{folder}/")


def files(path: Path) -> list[Path]:
    """The file, or all files in the folder, sorted, except temporary ones."""
    if path.is_file():
        return [path]
    found = (file for file in path.rglob("*") if "__pycache__" not in file.parts and file.suffix not in (".part", ".lock"))
    return sorted(file for file in found if file.is_file())


def digest(path: Path) -> str | None:
    """sha256 of a file, or of the names and contents of the files in a folder; None if there is nothing."""
    if path.is_file():
        about = path.stat()
        return _digest(path.absolute(), about.st_size, about.st_mtime_ns)
    if not path.is_dir():
        return None
    return project.digest({file.relative_to(path).as_posix(): digest(file) for file in files(path)})


@cache
def _digest(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def record(study: str, stage: Stage) -> dict[str, Any] | None:
    """What was recorded when the stage ended, if it is done: if nothing has changed since."""
    file = _file(study, stage)
    kept = json.loads(file.read_text()) if file.is_file() else None
    return kept if kept == stage.now() else None


def _file(study: str, stage: Stage) -> Path:
    return project.root() / "state" / "away" / study / f"{stage.name}.json"


def log(study: str, stage: Stage) -> Path:
    """The file for what the stage prints while others run."""
    return _file(study, stage).with_suffix(".log")


class Running:
    """A stage that runs as DVC runs it, without its previous outputs. It gets SIGTERM if this process ends. Raises
    BlockingIOError if another process is writing its outputs."""

    def __init__(self, study: str, stage: Stage, *, tracking: str, log: Path | None = None):
        """tracking: its ADVEBM_TRACKING. log: the file for what it prints; None: it prints here."""
        python, *arguments = shlex.split(stage.command)
        if python != "python3":
            raise ValueError(f"{stage.target}: its command starts with {python}, but only python3 can be run here")
        self.study, self.stage, self.log = study, stage, log
        self.deps = stage.now()["deps"]
        self.stopped: float | None = None  # when it was told to end
        with project.locked(*map(Path, stage.outs)):
            for out in map(Path, stage.outs):
                shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)
        environment = os.environ | {"DVC_ROOT": str(project.root()), "ADVEBM_TRACKING": tracking}
        if log:
            log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") if log else nullcontext() as stream:
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                env=environment,
                stdout=stream,
                stderr=subprocess.STDOUT if log else None,
                start_new_session=True,
                preexec_fn=_end_with_parent(),
            )

    def poll(self, stop: bool) -> bool:
        """Whether it has ended. stop: it gets SIGTERM, and is killed after GRACE."""
        if self.process.poll() is not None:
            return True
        if stop:
            if self.stopped is None:
                self.stopped = time.monotonic()
                os.killpg(self.process.pid, signal.SIGTERM)
            elif time.monotonic() > self.stopped + GRACE:
                self.kill()
        return False

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)

    def code(self) -> int:
        """Its exit code, for a signal 128 plus its number; if it is 0, its inputs and outputs are recorded. Raises
        FileNotFoundError if it has not written its outputs."""
        code = self.process.wait()
        if code == 0:
            found = self.stage.now() | {"deps": self.deps}
            if missing := [path for path, sha256 in found["outs"].items() if sha256 is None]:
                raise FileNotFoundError(f"{self.stage.name}: ended without writing {missing[0]}")
            file = _file(self.study, self.stage)
            file.parent.mkdir(parents=True, exist_ok=True)
            disk.write(file, (json.dumps(found, indent=1) + "\n").encode())
        return 128 - code if code < 0 else code


def _end_with_parent() -> Callable[[], None] | None:
    """What a child calls first, to get SIGTERM when this process ends; None if the system is not Linux."""
    if sys.platform != "linux":
        return None
    libc, parent = ctypes.CDLL(None), os.getpid()

    def bind() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # the parent has already ended
            os._exit(128 + signal.SIGTERM)

    return bind
