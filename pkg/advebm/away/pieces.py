"""Run the stages of a study in pieces and pack them; home.py receives the packs."""

import signal
import sys
import time
from pathlib import Path
from typing import Any

from advebm.away import packs, pipeline
from advebm.away.pipeline import Stage
from advebm.data.prepared import about
from advebm.evaluation import MEASUREMENTS
from advebm.runtime import outbox, project, tracking

SOON = ("train", "sample", "quality", "robustness")  # for every method, before any of
LATE = ("ood", "look", "fisher", "autoattack", "applications")  # then these, and those of further measurements
HOME = ("check", "sources", "prepare", "gaussians")  # cheap but large: made again at home, by the same commands
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
    further = (m.stage for m in MEASUREMENTS.values() if m.stage not in SOON)
    late = [[f"{stage}@{method}" for stage in dict.fromkeys((*LATE, *further))] for method in methods]
    soon = [f"{stage}@{method}" for method in methods for stage in SOON]
    return [*soon, *late[0], "report", *(name for names in late[1:] for name in names), "compare"]


def run(study: str, stages: list[Stage], piece: Piece) -> int:
    """Run the stages that are not done until the piece is over; returns the exit code."""
    failed: dict[str, int] = {}  # exit codes
    lost: dict[str, str] = {}  # stages that failed or depend on one that did, and the latter
    for stage in stages:
        if pipeline.record(study, stage):
            continue
        cause = next((lost[other.name] for other in stages if other.name in lost and pipeline.needs(stage, other)), None)
        if cause is not None:
            lost[stage.name] = cause
            continue
        if piece.over():
            return ended(f"before {stage.name}", piece.code)
        print(f"== {stage.name}, {piece.left():.0f} s left", flush=True)
        mode = "off" if tracking.off() else "outbox"
        try:
            code = pipeline.run(study, stage, stopped=piece.over, tracking=mode)
        except OSError as error:
            print(f"advebm: {error}", file=sys.stderr)
            code = 1
        if code and (piece.over() or code in [128 + number for number in ENDING]):
            return ended(f"in {stage.name}", piece.code if piece.over() else code)
        if code:
            print(f"advebm: {stage.name} failed with exit code {code}: {stage.command}", file=sys.stderr, flush=True)
            failed[stage.name], lost[stage.name] = code, stage.name
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


def priority(path: Path) -> int:
    """The place of a file: numbers, pictures, models, samples, and then the rest, such as replay buffers."""
    if path.suffix in TEXTS:
        return 0
    if path.suffix in (".png", ".pdf"):
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
