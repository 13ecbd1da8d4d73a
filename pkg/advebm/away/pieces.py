"""The stages of a study, run in pieces and packed; `receive` (home.py) takes home what this packs."""

import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advebm.data.prepared import about
from advebm.runtime import project

if TYPE_CHECKING:
    from advebm.away.pipeline import Stage

SOON = ("train", "sample", "quality", "robustness")  # of every method, before the first of
LATE = ("ood", "look", "fisher", "autoattack")
HOME = ("check", "prepare", "gaussians")  # cost little and write much: made at home again, by the same commands
AGAIN = 75  # EX_TEMPFAIL of sysexits.h
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TEXTS = (".json", ".jsonl", ".csv", ".md", ".html")


class Piece:
    """So many seconds, or until SIGINT, SIGTERM or SIGHUP comes; code: what to exit with when it is over."""

    def __init__(self, seconds: float):
        self.end, self.code = time.monotonic() + seconds, AGAIN
        for number in ENDING:
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has SIGHUP
                signal.signal(number, self.stop)

    def stop(self, number: int, _: Any) -> None:
        self.end, self.code = -float("inf"), 128 + number

    def left(self) -> float:
        return self.end - time.monotonic()

    def over(self) -> bool:
        return self.left() <= 0


def order(methods: list[str]) -> list[str]:
    """The names of stages, the most telling first; what they depend on comes before them. The report is the first method's,
    as in dvc.yaml the selected one's."""
    late = [[f"{stage}@{method}" for stage in LATE] for method in methods]
    soon = [f"{stage}@{method}" for method in methods for stage in SOON]
    return [*soon, *late[0], "report", *(name for names in late[1:] for name in names), "compare"]


def run(study: str, stages: list["Stage"], piece: Piece) -> int:
    """Run the stages that are not done, for a piece; the exit code."""
    from advebm.away import pipeline
    from advebm.runtime import tracking

    failed: dict[str, int] = {}  # exit codes
    lost: dict[str, str] = {}  # stages that failed, or depend on one, and the one that failed
    for stage in stages:
        if pipeline.record(study, stage):
            continue
        cause = next((lost[other.name] for other in stages if other.name in lost and pipeline.needs(stage, other)), None)
        if cause is not None:
            lost[stage.name] = cause
            continue
        if piece.over():
            return over(f"before {stage.name}", piece.code)
        print(f"== {stage.name}, {piece.left():.0f} s left", flush=True)
        told = "off" if tracking.off() else "outbox"
        try:
            code = pipeline.run(study, stage, stopped=piece.over, tracking=told)
        except OSError as error:
            print(f"advebm: {error}", file=sys.stderr)
            code = 1
        if code and piece.over():
            return over(f"in {stage.name}", piece.code)
        if code in [128 + number for number in ENDING]:
            return over(f"in {stage.name}", code)
        if code:
            print(f"advebm: {stage.name} has failed with exit code {code}: {stage.command}", file=sys.stderr, flush=True)
            failed[stage.name], lost[stage.name] = code, stage.name
    if not failed:
        print(f"all is done of {study}")
        return 0
    for name, code in failed.items():
        others = [other for other, cause in lost.items() if cause == name and other != name]
        without = f"; not run, as they depend on it: {', '.join(others)}" if others else ""
        print(f"advebm: {name} has failed with exit code {code}{without}", file=sys.stderr)
    return next(iter(failed.values()))


def over(where: str, code: int) -> int:
    """Say why and where a piece ends; the code."""
    why = "the piece is over" if code == AGAIN else f"stopped by {signal.Signals(code - 128).name}"
    print(f"{why} {where}; run it again")
    return code


def pack(study: str, stages: list["Stage"]) -> list[Path]:
    """Write away/STUDY/part-001.tar, ... of all that the stages that are done wrote, and of what MLflow is to be told."""
    from advebm.away import packs, pipeline
    from advebm.runtime import tracking

    records = {stage.name: found for stage in stages if (found := pipeline.record(study, stage))}
    written = {name: found["outs"] for name, found in records.items() if name not in HOME}
    listed = [
        packs.described(file, stage=name)
        for name, outs in written.items()
        for out in outs
        for file in pipeline.files(Path(out))
    ]
    told = [] if tracking.off() else tracking.waiting(study)
    listed += [packs.described(file.relative_to(project.root()), stage="mlflow") for file in told]
    listed.sort(key=lambda entry: rank(Path(entry["path"])))
    manifest = {"study": study, "stages": records, "home": facts(study), "files": listed}
    return packs.write(Path("away", study), manifest)


def rank(path: Path) -> int:
    """Where a file goes: numbers, pictures, models, samples, and then the rest, such as replay buffers."""
    if path.suffix in TEXTS:
        return 0
    if path.suffix == ".png":
        return 1
    return 2 if path.name == "model.safetensors" else 3 if "samples" in path.parts else 4


def facts(study: str) -> dict[str, Any]:
    """What tells data and class Gaussians, which are not carried, from others: sha256 of the images; of each class the norm
    of the mean, and trace and log determinant of the covariance, which another machine has but for rounding."""
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
