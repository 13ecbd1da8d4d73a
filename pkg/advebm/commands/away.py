"""A study on a machine that has neither DVC nor MLflow nor git: `receive` takes home what this packs."""

import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument

from advebm import config
from advebm.commands import options as o
from advebm.commands.info import check
from advebm.commands.prepare import about, data_root

if TYPE_CHECKING:
    from advebm.pipeline import Stage

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


def away(
    study: Annotated[str, Argument(help="study: an entry of params.yaml")],
    seconds: Annotated[float, Argument(min=1, help="how long a piece is")],
    methods: Annotated[list[str], Argument(help="methods of the study, the most wanted first")],
) -> int:
    """Run all stages of some methods without DVC, from data to report and comparison, in pieces: exit code 75 says that it
    is to be run again, 128 and its number that a signal came. Where a stage fails, those that do not depend on it are run
    before its exit code is returned. What is done by then is packed in away/STUDY/, for `advebm receive` at home.

    Reads dvc.yaml and params.yaml of the current folder and writes where DVC's stages write.
    """
    from advebm import pipeline

    with pipeline.alone("state/away"):
        return begin(study, Piece(seconds), list(dict.fromkeys(methods)))


def begin(study: str, piece: Piece, methods: list[str]) -> int:
    """`away`, where no other process does the same here."""
    from advebm import pipeline

    config.check_top(o.PARAMS)
    content = config.read_yaml(o.PARAMS)
    for method in methods:
        if method not in content["methods"]:
            raise ValueError(f"{o.PARAMS}: no method {method!r} in methods; there are {', '.join(content['methods'])}")
        check(method, study)
    weights(config.read(o.PARAMS, study)["quality"])
    known = pipeline.read(study, methods[0], methods, content["seed"])
    stages = list(pipeline.ordered(known, order(methods)))
    try:
        return run(study, stages, piece)
    finally:
        parts = pack(study, stages)
        print(f"packed {len(parts)} files; at home: advebm receive {parts[0].parent}/part-*.tar", flush=True)


def weights(quality: dict[str, Any]) -> None:
    """Raises FileNotFoundError where images are to be scored by Inception, and its weights are not here."""
    if quality["features"] != "inception":
        return
    import torch

    from advebm.evaluation.quality import Quality

    name = config.build(Quality, quality).inception
    kept = Path(torch.hub.get_dir(), "checkpoints", name)  # where torch-fidelity leaves what it has downloaded
    if not (data_root(None) / name).is_file() and not kept.is_file():
        raise FileNotFoundError(f"{data_root(None) / name}: Inception's weights are not there; see data/README.md")


def order(methods: list[str]) -> list[str]:
    """The names of stages, the most telling first; what they depend on comes before them. The report is the first method's,
    as in dvc.yaml the selected one's."""
    late = [[f"{stage}@{method}" for stage in LATE] for method in methods]
    soon = [f"{stage}@{method}" for method in methods for stage in SOON]
    return [*soon, *late[0], "report", *(name for names in late[1:] for name in names), "compare"]


def run(study: str, stages: list["Stage"], piece: Piece) -> int:
    """Run the stages that are not done, for a piece; the exit code."""
    from advebm import pipeline, tracking

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
    from advebm import packs, pipeline, tracking

    records = {stage.name: found for stage in stages if (found := pipeline.record(study, stage))}
    written = {name: found["outs"] for name, found in records.items() if name not in HOME}
    listed = [
        packs.described(file, stage=name)
        for name, outs in written.items()
        for out in outs
        for file in pipeline.files(Path(out))
    ]
    told = [] if tracking.off() else tracking.waiting(study)
    listed += [packs.described(file.relative_to(config.root()), stage="mlflow") for file in told]
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
