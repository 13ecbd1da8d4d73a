"""The pipeline's commands on study `tiny`, how one is run and how it ended, and the outputs of all of them, undisturbed."""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
DEADLINE, MEMORY = 240, 2e9  # seconds and bytes that a command may take
DATA, START, JUDGE, MODEL = "data", "gaussians.safetensors", "judge/model.safetensors", "model/model.safetensors"
ON_MODEL = ["--model", MODEL, "--data", DATA]


@dataclass(frozen=True)
class Step:
    """A command of the pipeline, the files and folders that it reads, and those that it writes."""

    arguments: list[str]
    reads: list[str]
    writes: list[str]


def step(command: str, more: list[str], reads: list[str], writes: list[str], options: tuple[str, ...] = ("-q",)) -> Step:
    return Step([*command.split(), "--study", "tiny", *more, *options], reads, writes)


def measurement(name: str, *more: str, out: str = "", reads: tuple[str, ...] = (), sheets: tuple[str, ...] = ()) -> Step:
    ends = (".json", ".png", ".pdf", *(f"_{key}.png" for key in sheets))
    writes = [f"results/{out}"] if out else [f"results/{name}{end}" for end in ends]
    target = f"results/{out}" if out else "results"
    return step(f"{name} robust_jem", [*ON_MODEL, *more, "--out", target], ["model", DATA, *reads], writes)


LOOK = [
    f"results/{n}{end}"
    for n in ("calibration", "landscape", "neighbours", "interpolation")
    for end in (".json", ".png", ".pdf")
]
TRAINS = ["--data", DATA, "--gaussians", START, "--warm", "warm"]
STEPS = {
    "prepare": step("prepare", ["--out", DATA], [], [DATA]),
    "gaussians": step("gaussians", ["--data", DATA, "--out", START], [DATA], [START]),
    "train judge": step("train judge", ["--data", DATA, "--out", "judge"], [DATA], ["judge"]),
    "train warm": step("train warm", ["--data", DATA, "--out", "warm"], [DATA], ["warm"]),
    "train": step("train robust_jem", [*TRAINS, "--out", "model"], [DATA, START, "warm"], ["model"]),
    "train jeat": step("train jeat", [*TRAINS, "--out", "jeat"], [DATA, START, "warm"], ["jeat"]),
    "train at_ebm": step("train at_ebm", [*TRAINS, "--out", "at_ebm"], [DATA, START, "warm"], ["at_ebm"]),
    "baselines": step(
        "baselines", ["--data", DATA, "--gaussians", START, "--judge", JUDGE, "--out", "baselines"], [DATA, START, "judge"],
        ["baselines"],
    ),
    "sample": measurement("sample", "--gaussians", START, out="samples", reads=(START,)),
    "quality": measurement(
        "quality", "--samples", "results/samples", "--judge", JUDGE, "--baselines", "baselines", out="quality.json",
        reads=("results/samples", "judge", "baselines"),
    ),
    "ood": measurement("ood", sheets=("fooled",)),
    "scores": measurement("scores", out="scores.json"),
    "robustness": measurement("robustness"),
    "autoattack": measurement("autoattack", out="autoattack.json"),
    "fisher": measurement("fisher", out="fisher.json"),
    "look": step(
        "look robust_jem",
        [*ON_MODEL, "--gaussians", START, "--samples", "results/samples", "--judge", JUDGE, "--out", "results"],
        ["model", DATA, START, "results/samples", "judge"], LOOK,
    ),
    "report": step(
        "report robust_jem", ["--results", "results", "--model", MODEL, "--out", "report.json"], ["model", "results"],
        ["report.json", "report.md", "report.html", "report.metrics.json"], (),
    ),
}  # fmt: skip


@dataclass
class End:
    """How a command ended."""

    code: int | None  # None: it did not
    out: str
    memory: float  # bytes
    seconds: float

    @property
    def told(self) -> bool:
        return self.code in (1, 2) and "Traceback" not in self.out and self.out.count("advebm: ") == 1

    def verdict(self, same: Callable[[], bool]) -> str:
        if self.code is None:
            return "stuck"
        if self.memory > MEMORY:
            return "dear"
        if self.code == 0:
            return "same" if same() else "silent"
        return "told" if self.told else "loud"


LISTED = """import sys; from pathlib import Path
from typing import Any
def listed(event, args):
    if event == "open" and isinstance(args[0], (str, Path)) and "r" in (args[1] or "r"):
        print(Path(args[0]).absolute(), file=file)
file = open(sys.argv.pop(1), "a", buffering=1); sys.addaudithook(listed)
from advebm.cli import main; main()"""


def run(
    folder: Path,
    arguments: list[str],
    kill: float | None = None,
    prefix: tuple[str, ...] = (),
    listed: Path | None = None,
    **environment: str,
) -> End:
    """Run `advebm` with these arguments; after `kill` seconds, if given, end it and its children by kill -9. Add the names
    of the files that it opens to the file `listed`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_", "ADVEBM_"))}
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "pkg"), "ADVEBM_TRACKING": "off"}
    begun = time.monotonic()
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(
            [*prefix, sys.executable, *(["-c", LISTED, str(listed)] if listed else ["-m", "advebm"]), *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={**kept, **own, **environment},
            start_new_session=True,
        )
        pid = 0
        while not pid:
            pid, status, used = os.wait4(process.pid, os.WNOHANG)
            seconds = time.monotonic() - begun
            if not pid and seconds > (DEADLINE if kill is None else kill):
                os.killpg(process.pid, signal.SIGKILL)
                pid, status, used = os.wait4(process.pid, 0)
                status = None if kill is None else status
            time.sleep(0.02)
        process.returncode = 0  # it has been waited for
        out.seek(0)
        code = None if status is None else os.waitstatus_to_exitcode(status)
        return End(code, out.read().decode(errors="replace"), used.ru_maxrss * 1024, seconds)


@dataclass
class Tree:
    """The outputs of every step, undisturbed."""

    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)
    opened: dict[str, list[str]] = field(default_factory=dict)  # files that each step reads, but for params.yaml

    def build(self, seed: int, done: Callable[[], object]) -> None:
        """Run every step in turn."""
        self.folder.mkdir(parents=True)
        content = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        content["tiny"]["data"]["validation"] += seed  # another split
        (self.folder / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        for name, s in STEPS.items():
            listed = self.folder.with_suffix(".opened")
            listed.write_text("")
            end = run(self.folder, s.arguments, listed=listed)
            if end.code:
                raise SystemExit(f"{name}: {end.out}")
            self.seconds[name] = end.seconds
            read = {os.path.relpath(line, self.folder) for line in listed.read_text().splitlines()}
            self.opened[name] = sorted(read & self.files(name))
            done()

    def inputs(self, name: str, folder: Path) -> Path:
        """A folder with what the step reads."""
        folder.mkdir(parents=True)
        for path in ["params.yaml", *STEPS[name].reads]:
            self.copy(path, folder)
        return folder

    def copy(self, path: str, folder: Path) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        kind = shutil.copytree if (self.folder / path).is_dir() else shutil.copy2
        kind(self.folder / path, folder / path)

    def same(self, name: str, folder: Path) -> bool:
        """Whether the outputs of the step in that folder have the bytes of the undisturbed ones."""
        return all(contents(self.folder / path) == contents(folder / path) for path in STEPS[name].writes)

    def files(self, name: str) -> set[str]:
        """The files among the inputs of the step."""
        found = [file for path in STEPS[name].reads for file in [self.folder / path, *(self.folder / path).rglob("*")]]
        return {str(file.relative_to(self.folder)) for file in found if file.is_file()}


def contents(path: Path) -> dict[str, bytes]:
    found = [path] if path.is_file() else sorted(path.rglob("*"))
    return {str(file.relative_to(path)): file.read_bytes() for file in found if file.is_file()}


@dataclass
class Arena:
    """What a try has at hand: its folder, its random numbers, the two trees; it notes what it does."""

    folder: Path
    rng: random.Random
    good: Tree
    other: Tree  # of another split
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def moment(self, name: str) -> float:
        """A moment of that step, more often after its imports than during them."""
        return self.good.seconds[name] * self.rng.uniform(0.3, 1.05)
