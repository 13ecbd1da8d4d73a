"""MLflow: one run for each model, across the stages that make and measure it. Only this module, registry.py and serving.py
use MLflow.

What is logged is written to state/outbox, see outbox.py, and sent from there by a process beside the stage: whatever
MLflow does, no stage fails or waits for long, and what is left is sent beside a later stage or by `advebm sync`. A run is
known by the digest of its model: the same model trained again joins its run.

Tracking is on if DVC runs the stage or MLFLOW_TRACKING_URI is set; ADVEBM_TRACKING=off turns it off. ADVEBM_TRACKING=outbox
keeps everything in the outbox, which `advebm away` packs and `advebm receive` unpacks on another machine. By default the
store is mlflow.db next to dvc.yaml and the artifacts are in mlartifacts/, also for experiments that DVC runs in a temporary
folder. Only `advebm summary`, `headline` and `promote` read from MLflow: with tracking off every file is the same.
"""

import json
import logging
import math
import os
import re
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import partial
from itertools import pairwise, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from advebm.runtime import disk, outbox, project, registry, signals
from advebm.runtime.outbox import Box

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun
    from mlflow.entities import RunData

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_ENABLE_ASYNC_LOGGING", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

DEADLINE = 10  # seconds that a server has after the end of a stage
LOCAL = 60  # seconds that a file has, which may first be created
HURRY = 2  # seconds that either has when a signal stops the stage
PATIENCE = 10  # seconds to wait for another process that creates the store
REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS")
BATCH = 100  # params that MLflow takes at a time


def uri() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project.root() / 'mlflow.db'}"


def _file() -> Path | None:
    """The store, if it is an sqlite file."""
    scheme, found, path = uri().partition("sqlite:///")
    return Path(path.removeprefix("file:").partition("?")[0]) if found and not scheme else None


def off() -> bool:
    return os.environ.get("ADVEBM_TRACKING", "on").lower() in ("off", "0", "false", "no")


def enabled() -> bool:
    return not off() and ("DVC_ROOT" in os.environ or "MLFLOW_TRACKING_URI" in os.environ)


def client() -> "MlflowClient":
    """A client of the store, which has answered. A new sqlite file is created first, by one process at a time."""
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # failures are raised as well
    file = _file()
    if file is None:
        store = MlflowClient(uri())
        store.search_experiments(max_results=1)
        return store
    if file.is_dir():
        raise IsADirectoryError("is a folder, not a database")
    with FileLock(file.with_suffix(".lock"), timeout=PATIENCE):
        if not file.exists() or not file.stat().st_size:
            _create(file)
        # one that is damaged or locked, which MLflow would try to open for minutes, is an error here
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as database:
            database.execute("SELECT * FROM sqlite_master").fetchall()
        store = MlflowClient(uri())
        store.search_experiments(max_results=1)
    return store


def _create(file: Path) -> None:
    """Create an sqlite store beside `file`, complete, and rename it."""
    from mlflow import MlflowClient

    part = file.with_name(f"{file.name}.part")
    for left in (part, part.with_name(f"{part.name}-journal")):  # of a process that was killed
        left.unlink(missing_ok=True)
    MlflowClient(f"sqlite:///{part}").search_experiments(max_results=1)
    disk.force(part)
    part.replace(file)
    disk.force(file.parent)


def _experiment(store: "MlflowClient", study: str) -> str:
    from mlflow.exceptions import MlflowException

    name = f"advebm/{study}"
    found = store.get_experiment_by_name(name)
    if found is None:
        place = (project.root() / "mlartifacts" / study).as_uri() if uri().startswith("sqlite:") else None
        try:
            return store.create_experiment(name, artifact_location=place)
        except MlflowException:
            found = store.get_experiment_by_name(name)
            if found is None:  # otherwise another process was first
                raise
    return found.experiment_id


def _commit() -> str:
    if "DVC_EXP_BASELINE_REV" in os.environ:
        return os.environ["DVC_EXP_BASELINE_REV"]
    try:
        git = subprocess.run(["git", "-C", project.root(), "rev-parse", "HEAD"], capture_output=True, text=True)
    except FileNotFoundError:  # git is not installed
        return "none"
    return git.stdout.strip() or "none"


def _send(store: "MlflowClient", box: Box) -> None:
    """Send the events of a box that were not sent; remove it if its stage has ended. Raises whatever MLflow raises."""
    if box.sent and not _has(store, box.run_id):
        box.sent = 0
    while box.sent < len(box.events):
        box.sent += _send_next(store, box)
        box.note()
    if box.ended:
        box.remove()


def _has(store: "MlflowClient", run_id: str) -> bool:
    """Whether the store has the run: it may be another store than before."""
    from mlflow.exceptions import MlflowException

    try:
        return bool(store.get_run(run_id))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False


def _send_next(store: "MlflowClient", box: Box) -> int:
    """Send the next event, and of metrics also those that follow; returns how many were sent."""
    from mlflow.entities import Metric

    match box.events[box.sent]:
        case ["metrics", *_]:
            numbers = list(takewhile(lambda event: event[0] == "metrics", box.events[box.sent : box.sent + 25]))
            batch = [Metric(name, v, now, step) for _, values, step, now in numbers for name, v in values.items()]
            store.log_batch(box.run_id, metrics=batch)
            return len(numbers)
        case ["begin", about]:
            box.run_id, made = _open(store, about, about["checkpoint"] or outbox.trained(box.events))
            if made:  # the same model was trained before, and its run has all but the end
                return len(box.events) - 1
        case ["tags", values]:
            if "checkpoint.sha256" in values and _superfluous(store, box, values["checkpoint.sha256"]):
                store.delete_run(box.run_id)
                return -box.sent
            for name, value in values.items():
                store.set_tag(box.run_id, name, value)
        case ["artifact", name, folder]:
            file = box.folder / name
            said = registry.about(file) if file.suffix == ".safetensors" else None
            if said is not None:
                registry.log(store, box.run_id, file, said)
            elif file.exists():  # otherwise the box was being removed at an interruption
                store.log_artifact(box.run_id, str(file), folder)
        case ["status" | "end", status]:
            _set_status(store, box.run_id, status)
    return 1


def _set_status(store: "MlflowClient", run_id: str, status: str) -> None:
    """Set the status of a run. One that is finished remains so: a later stage that fails takes nothing from it."""
    if status == "FINISHED":
        store.set_terminated(run_id, status)
    elif store.get_run(run_id).info.status != "FINISHED":
        store.update_run(run_id, status=status) if status == "RUNNING" else store.set_terminated(run_id, status)


def _same_model(store: "MlflowClient", about: dict[str, Any], checkpoint: str) -> list["MlflowRun"]:
    """The runs of a model that the stage can belong to, completed trainings first: those that have the stage with no other
    spec or params. A training does not join one that was not completed."""
    stage, experiment = about["stage"], _experiment(store, about["study"])
    where = f"tags.`checkpoint.sha256` = '{checkpoint}' and tags.method = '{about['method']}'"
    found = [
        run
        for run in store.search_runs([experiment], where)
        if run.data.tags.get(f"spec.{stage}") in (None, about["spec"])
        and all(run.data.params.get(key, value) == value for key, value in about["params"].items())
        and (stage != "train" or "spec.train" not in run.data.tags or _completed(run))
    ]
    return sorted(found, key=_completed, reverse=True)


def _completed(run: "MlflowRun") -> bool:
    """Whether the training of the run's model was completed."""
    return run.data.tags.get("stage.train") == "done"


def _superfluous(store: "MlflowClient", box: Box, checkpoint: str) -> bool:
    """Whether the run that a training has opened turns out to be of a model that has a run."""
    own = store.get_run(box.run_id).data.tags.get("checkpoint.sha256")
    return own is None and bool(_same_model(store, box.events[0][1], checkpoint))


def _open(store: "MlflowClient", about: dict[str, Any], checkpoint: str | None) -> tuple[str, bool]:
    """The id of the run of a model that the stage belongs to, and whether it is a training that the run already has.
    The run is created if there is none. A training that is sent after measurements of its model joins their run."""
    from mlflow.entities import Param

    experiment = _experiment(store, about["study"])
    stage, method, params = about["stage"], about["method"], about["params"]
    found = list(store.search_runs([experiment], f"tags.`run.uid` = '{about['uid']}'"))
    made = False
    if not found and checkpoint:
        found = _same_model(store, about, checkpoint)
        made = stage == "train" and any(map(_completed, found))
    if not found:
        name = about["experiment"]
        tags = {"run.uid": about["uid"], "study": about["study"], "method": method, "git.commit": about["commit"]}
        tags |= {"dvc.experiment": name or "workspace"}
        tags |= {"checkpoint.sha256": checkpoint} if stage != "train" and checkpoint else {}  # training tags it at its end
        found = [store.create_run(experiment, run_name=f"{method} {name}" if name else method, tags=tags)]
    run_id, known = found[0].info.run_id, found[0].data.params
    fresh = [Param(key, value) for key, value in params.items() if key not in known]
    for start in range(0, len(fresh), BATCH):
        store.log_batch(run_id, params=fresh[start : start + BATCH])
    _set_status(store, run_id, "RUNNING")
    store.set_tag(run_id, f"spec.{stage}", about["spec"])
    _log_inputs(store, run_id, stage, about.get("dvc", {}))
    return run_id, made


def _hashes() -> dict[str, str]:
    """{path: DVC's hash} of what a stage that DVC runs reads: outputs in the lock files that its command names."""
    if "DVC_ROOT" not in os.environ:
        return {}
    from advebm.runtime import yaml12

    given = [word for before, word in pairwise(sys.argv) if before != "--out"]
    found: dict[str, str] = {}
    for file in (Path("dvc.lock"), Path("stages/train/dvc.lock"), Path("stages/sample/dvc.lock")):
        with suppress(OSError, ValueError, yaml12.YAMLError, LookupError, TypeError, AttributeError):  # none that DVC wrote
            outs = [out for stage in yaml12.load(file.read_text())["stages"].values() for out in stage.get("outs", ())]
            read = [out for out in outs if any(f"{word}/".startswith(f"{out['path']}/") for word in given)]
            found |= {out["path"]: out["md5"] for out in read}
    return found


def _log_inputs(store: "MlflowClient", run_id: str, stage: str, hashes: dict[str, str]) -> None:
    """Tag the run with DVC's hashes of what a stage reads; the folders of images are data sets, its inputs."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    for path, value in hashes.items():
        store.set_tag(run_id, f"dvc.{path}", value)
    use = InputTag("mlflow.data.context", "training" if stage == "train" else "evaluation")
    sets = {path: value for path, value in hashes.items() if path.startswith("data/")}
    given = [Dataset(Path(path).name, value, "local", json.dumps({"uri": path})) for path, value in sets.items()]
    if given:
        store.log_inputs(run_id, [DatasetInput(dataset, [use]) for dataset in given])


class Run:
    """An open run: what is logged goes into the stage's box."""

    def __init__(self, box: Box, uid: str):
        self.box = box
        self.uid: str | None = uid
        self.reached = max((event[2] for event in box.events if event[0] == "metrics"), default=-math.inf)

    def metrics(self, values: Mapping[str, float | None], step: int = 0) -> None:
        """Log the numbers of a step, unless they were logged before an interruption."""
        numbers = {name: float(value) for name, value in values.items() if value is not None}
        if numbers and (step == 0 or step > self.reached):
            self.box.put("metrics", numbers, step, int(time.time() * 1000))

    def tags(self, **values: Any) -> None:
        self.box.put("tags", {name.replace("__", "."): str(value) for name, value in values.items()})

    def artifact(self, path: Path, folder: str | None = None) -> None:
        self.box.artifact(path, folder)


class _Off(Run):
    """A run while tracking is off."""

    def __init__(self) -> None:
        self.uid = None

    def metrics(self, values: Mapping[str, float | None], step: int = 0) -> None: ...
    def tags(self, **values: Any) -> None: ...
    def artifact(self, path: Path, folder: str | None = None) -> None: ...


@contextmanager
def run(
    stage: str,
    study: str,
    method: str,
    *,
    params: Mapping[str, Any],
    checkpoint: str | None = None,
    spec: Any = None,
    uid: str | None = None,
) -> Iterator[Run]:
    """The run of a model, with the stage's `params`. Training opens a new run or resumes that of `uid`. A later stage gives
    the sha256 of the model's `checkpoint` and continues the run that made it. It opens a new run if that run already has
    this stage with another `spec` (what params.yaml says of the stage), or if the model comes from elsewhere. Meanwhile
    another process sends the outbox, also what earlier stages left there."""
    if not enabled():
        yield _Off()
        return
    about: dict[str, Any] = {
        "stage": stage,
        "study": study,
        "method": method,
        "checkpoint": checkpoint,
        "spec": project.digest(spec),
    }
    about |= {"commit": _commit(), "experiment": os.environ.get("DVC_EXP_NAME"), "dvc": _hashes()}
    about["params"] = {key: str(value) for key, value in params.items()}
    if uid is None:
        uid = f"{time.time_ns():x}-{uuid.uuid4().hex[:8]}"  # sorts by time
        outbox.supersede(about)
    with sending(), outbox.writing(uid) as box:
        if box.events:
            box.put("status", "RUNNING")
        else:
            box.put("begin", {"uid": uid, **about})
        opened = Run(box, uid)
        try:
            yield opened
        except BaseException as error:
            resumes = stage == "train" and not isinstance(error, Exception)
            box.put("status" if resumes else "end", "FAILED" if isinstance(error, Exception) else "KILLED")
            raise
        opened.tags(**{f"stage__{stage}": "done"})
        box.put("end", "FINISHED")


_sending = False  # whether a process sends the outbox


@contextmanager
def sending() -> Iterator[None]:
    """Within this block, the outermost if there are several, another process sends the outbox, unless it is to be kept:
    see sender.py. It gets some time to send the rest; what it could not send is reported."""
    global _sending
    if _sending or not enabled() or os.environ.get("ADVEBM_TRACKING", "").lower() == "outbox":
        yield
        return
    from advebm.runtime import sender

    owner, deadline = signals.runner or os.getpid(), LOCAL if _file() else DEADLINE
    note = outbox.root().parent / "locks" / f"sender-{owner}"
    process = sender.start(owner, note, deadline)
    patience: float = deadline
    _sending = True
    try:
        yield
    except BaseException as error:
        patience = deadline if isinstance(error, Exception) else HURRY
        raise
    finally:
        _sending = False
        told = sender.ask(note, process, patience)
        if process and owner == os.getpid():
            sender.stop(process, note)
        if told is None:
            told = f"advebm: MLflow: {_where()}: did not receive all in time{later()}\n"
        print(told, end="", file=sys.stderr)


def later() -> str:
    return f"; `advebm sync` sends what is left in {outbox.root()}"


def sync() -> int:
    """Send the outbox; returns of how many stages. One process does so at a time. Raises ConnectionError, or, after all
    others were sent, ValueError with the stages whose records MLflow refuses."""
    count, refused, store = 0, [], None
    lock = outbox.root().parent / "locks" / "outbox.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        for box in outbox.boxes():
            if box.sent == len(box.events) and not box.ended:
                continue
            try:
                store = store or client()
            except Exception as error:  # MLflow raises what its store, its server or the network does
                raise ConnectionError(f"MLflow: {_reason(error)}") from error
            count += box.sent < len(box.events)
            try:
                _send(store, box)
            except Exception as error:
                if getattr(error, "error_code", "") not in REFUSALS and not isinstance(error, LookupError | TypeError):
                    raise ConnectionError(f"MLflow: {_reason(error)}") from error
                refused.append(f"{box.folder} ({_reason(error)})")
    if refused:
        raise ValueError(f"MLflow refuses the records in {'; '.join(refused)}; the other stages were sent")
    return count


def _where() -> str:
    """The store, without a password."""
    return str(_file() or f"MLFLOW_TRACKING_URI {re.sub('//[^/@]*@', '//', uri())}")


def _reason(error: Exception) -> str:
    """Why the store, its server or the network fails, in a line after the store."""
    text = " ".join(str(getattr(error, "orig", None) or error).split())[:200]  # sqlalchemy's holds that of sqlite
    return f"{_where()}: {text}"


def runs(study: str, status: str = "FINISHED") -> list["RunData"]:
    """Tags, params and metrics of each run of a study that ended so, newest first. Prints a line if some wait in the
    outbox. Raises ConnectionError where the store cannot be read."""
    unsent = {file.relative_to(outbox.root()).parts[0] for file in outbox.waiting(study)}
    if unsent and status == "FINISHED":
        told = f"{len(unsent)} stages of {study} wait in {outbox.root()} and are not counted; `advebm sync` sends them"
        print(f"advebm: {told}", file=sys.stderr)
    with connected() as store:
        found = store.get_experiment_by_name(f"advebm/{study}")
        if found is None:
            return []
        search = partial(store.search_runs, [found.experiment_id], f"attributes.status = '{status}'")
        part = search()
        ended = [*part]
        while part.token:
            part = search(page_token=part.token)
            ended += part
        return [run.data for run in ended]


@contextmanager
def connected() -> Iterator["MlflowClient"]:
    """A client of the store, to read from it or to change it. Raises ConnectionError where that fails."""
    try:
        yield client()
    except Exception as error:  # MLflow raises what its store, its server or the network does
        advice = "if it is locked, wait; if it is damaged, move it away" if _file() else "see MLFLOW_TRACKING_URI"
        raise ConnectionError(f"MLflow cannot be read: {_reason(error)}; {advice}") from error
