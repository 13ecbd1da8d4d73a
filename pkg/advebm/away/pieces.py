"""Run the stages of a study in pieces and pack them; home.py receives the packs."""

import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from advebm.away import packs, pipeline
from advebm.away.pipeline import Running, Stage
from advebm.data.prepared import about
from advebm.evaluation import MEASUREMENTS
from advebm.runtime import outbox, project, tracking
from advebm.runtime.seldom import Seldom

SOON = ("train", "sample", "quality", "robustness")  # for every method, before any of
LATE = ("ood", "look", "fisher", "autoattack", "applications")  # then these, and those of further measurements
HOME = ("check", "sources", "prepare", "gaussians")  # cheap but large: made again at home, by the same commands
LINES = 20  # of what a failed stage printed into its file
POLL = 0.1  # seconds between two checks of running stages
AGAIN = 75  # EX_TEMPFAIL of sysexits.h
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TEXTS = (".json", ".jsonl", ".csv", ".md", ".html")


class Piece:
    """A time limit in seconds, ended early by the signals ENDING; code: the exit code once it is over."""

    def __init__(self, seconds: float):
        self.end, self.code = time.monotonic() + seconds, AGAIN
        for number in ENDING:
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup ignores SIGHUP
                signal.signal(number, self.stop)

    def stop(self, number: int, _: Any) -> None:
        self.end, self.code = -float("inf"), 128 + number

    def left(self) -> float:
        return self.end - time.monotonic()

    def over(self) -> bool:
        return self.left() <= 0


def order(methods: list[str]) -> list[str]:
    """Names of stages, the most informative first; the stages that they depend on are run before them. The report is of
    the first method."""
    further = (m.stage for m in MEASUREMENTS.values() if m.stage not in SOON and not m.apart)
    apart = [f"{m.stage}@{method}" for method in methods for m in MEASUREMENTS.values() if m.apart]
    late = [[f"{stage}@{method}" for stage in dict.fromkeys((*LATE, *further))] for method in methods]
    soon = [f"{stage}@{method}" for method in methods for stage in SOON]
    return [*soon, *late[0], "report", *(name for names in late[1:] for name in names), *apart, "compare"]


def run(study: str, stages: list[Stage], piece: Piece, jobs: int = 1, after: Callable[[], None] = lambda: None) -> int:
    """Run the stages that are not done until the piece is over, `jobs` of them at a time, each once those that it depends
    on have ended, and call `after` when one is done; returns the exit code. What each of several jobs prints goes into a
    file of its own."""
    waiting, running, interrupted = list(stages), list[Running](), list[str]()
    needed = {stage.name: {other.name for other in stages if pipeline.needs(stage, other)} for stage in stages}
    failed: dict[str, int] = {}  # exit codes
    lost: dict[str, str] = {}  # stages that failed or depend on one that did, and the latter

    def fail(stage: Stage, code: int) -> None:
        print(f"advebm: {stage.name} failed with exit code {code}: {stage.command}", file=sys.stderr, flush=True)
        failed[stage.name], lost[stage.name] = code, stage.name

    def passed(stage: Stage) -> bool:
        """Whether there is nothing to run: it is done, or lost."""
        if pipeline.record(study, stage):
            return True
        cause = next((lost[name] for name in lost if name in needed[stage.name]), None)
        if cause is not None:
            lost[stage.name] = cause
        return cause is not None

    def begin(stage: Stage) -> None:
        log = pipeline.log(study, stage) if jobs > 1 else None
        print(f"== {stage.name}, {piece.left():.0f} s left{f'; it prints into {log}' if log else ''}", flush=True)
        try:
            running.append(Running(study, stage, tracking="off" if tracking.off() else "outbox", log=log))
        except OSError as error:
            print(f"advebm: {error}", file=sys.stderr)
            fail(stage, 1)

    def end(one: Running) -> None:
        running.remove(one)
        try:
            code = one.code()
        except OSError as error:
            print(f"advebm: {error}", file=sys.stderr)
            code = 1
        if code in [128 + number for number in ENDING] and not piece.over():
            piece.stop(code - 128, None)
        if code and piece.over():
            interrupted.append(one.stage.name)
        elif code:
            if one.log:
                print("\n".join(one.log.read_text(errors="replace").splitlines()[-LINES:]), file=sys.stderr)
            fail(one.stage, code)
        else:
            after()

    try:
        while waiting or running:
            for one in [one for one in running if one.poll(stop=piece.over())]:
                end(one)
            ahead = {stage.name for stage in (*waiting, *(one.stage for one in running))}
            ready = next((stage for stage in waiting if not needed[stage.name] & ahead), None)
            if ready and len(running) < jobs:
                nothing = passed(ready)
                if nothing or not piece.over():
                    waiting.remove(ready)
                    if not nothing:
                        begin(ready)
                    continue
            if running:
                time.sleep(POLL)
            elif interrupted:
                break
            elif waiting:
                return ended(f"before {waiting[0].name}", piece.code)
    finally:
        for one in running:
            one.kill()
    if interrupted:
        return ended(f"in {', '.join(interrupted)}", piece.code)
    if not failed:
        print(f"{study} is complete")
        return 0
    for name, code in failed.items():
        others = [other for other, cause in lost.items() if cause == name and other != name]
        without = f"; not run because they depend on it: {', '.join(others)}" if others else ""
        print(f"advebm: {name} failed with exit code {code}{without}", file=sys.stderr)
    return next(iter(failed.values()))


def ended(where: str, code: int) -> int:
    """Print why and where a piece ends; returns the code."""
    why = "the piece is over" if code == AGAIN else f"stopped by {signal.Signals(code - 128).name}"
    print(f"{why} {where}; run it again")
    return code


def pack(study: str, stages: list[Stage]) -> list[Path]:
    """Write away/STUDY/part-001.tar, ... with the outputs of all stages that are done and the records for MLflow."""
    records = {stage.name: found for stage in stages if (found := pipeline.record(study, stage))}
    listed = []
    for name in (name for name in records if name not in HOME):
        files = [file for out in records[name]["outs"] for file in pipeline.files(Path(out))]
        listed += [packs.file_entry(file, stage=name) for file in files]
    unsent = [] if tracking.off() else outbox.waiting(study)
    listed += [packs.file_entry(file.relative_to(project.root()), stage="mlflow") for file in unsent]
    listed.sort(key=lambda entry: priority(Path(entry["path"])))
    manifest = {"study": study, "stages": records, "home": identity(study), "files": listed}
    return packs.write(Path("away", study), manifest)


class Packing:
    """Packs what is done, again and again, in at most 5% of the time: a rented machine may be taken away at any moment.
    Where a running stage removes a file meanwhile, or the disk is full, there is no new pack until the next time."""

    def __init__(self, study: str, stages: list[Stage]):
        self.study, self.stages, self.seldom = study, stages, Seldom()

    def __call__(self) -> None:
        if self.seldom.due():
            with self.seldom.timed(), suppress(OSError):
                pack(self.study, self.stages)


def priority(path: Path) -> int:
    """The place of a file: numbers, pictures, models, samples, and then the rest, such as replay buffers and the pictures
    of each record of a training."""
    if path.suffix in TEXTS:
        return 0
    if path.suffix in (".png", ".pdf") and "grids" not in path.parts:
        return 1
    return 2 if path.name == "model.safetensors" else 3 if "samples" in path.parts else 4


def identity(study: str) -> dict[str, Any]:
    """What identifies data and class Gaussians, which are not transferred: sha256 of the images; for each class the norm
    of the mean, and trace and log determinant of the covariance, which other machines reproduce up to rounding."""
    data, fitted = Path("data", study), Path("models", study, "gaussians.safetensors")
    if not (data / "about.json").is_file() or not fitted.is_file():
        return {}
    from advebm.data.gaussians import Gaussians

    loaded = Gaussians.load(fitted)
    numbers = [
        [mean.norm().item(), factor.square().sum().item(), 2 * factor.diagonal().log().sum().item()]
        for mean, factor in zip(loaded.mean.double(), loaded.factor, strict=True)
    ]
    return {"images": about(data)["sha256"], "gaussians": numbers}
