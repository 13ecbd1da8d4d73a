"""MLflow: one run for each model, across the stages that make and measure it. The only module that uses MLflow.

What is logged is first written to state/outbox and sent from there: if MLflow cannot be reached, is locked or read-only, no
stage fails or waits, and `advebm sync` sends it later.

Tracking is on if DVC runs the stage or MLFLOW_TRACKING_URI is set; ADVEBM_TRACKING=off turns it off. ADVEBM_TRACKING=outbox
keeps everything in the outbox, which `advebm away` packs and `advebm receive` unpacks on another machine. By default the
store is mlflow.db next to dvc.yaml and the artifacts are in mlartifacts/, also for experiments that DVC runs in a temporary
folder. Only `advebm summary` reads from MLflow: with tracking off every file is the same.
"""

import json
import logging
import math
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from advebm.runtime import disk, project

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import RunData

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_ENABLE_ASYNC_LOGGING", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

EVERY = 15  # seconds after which the outbox is sent
PATIENCE = 10  # seconds to wait for another process that creates the store
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
    """A client of the store. A new sqlite file is created first, by one process at a time."""
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # failures are raised as well
    file = _file()
    if file is None:
        return MlflowClient(uri())
    if file.is_dir():  # MLflow tries for minutes
        raise IsADirectoryError("is a folder, not a database")
    with FileLock(file.with_suffix(".lock"), timeout=PATIENCE):
        if not file.exists() or not file.stat().st_size:
            _create(file)
        result = MlflowClient(uri())
        result.search_experiments(max_results=1)
    return result


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


class Outbox:
    """What one stage logs to MLflow, in a folder: events.jsonl, copies of files, and the number of events sent."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.journal, self.mark = folder / "events.jsonl", folder / "sent.json"
        text = self.journal.read_text() if self.journal.exists() else None
        complete = text[: text.rfind("\n") + 1] if text else ""
        if complete != text:  # it is new, or its last line is incomplete
            disk.write(self.journal, complete.encode())
        self.sent, self.run_id = 0, ""
        try:
            self.events = [json.loads(line) for line in complete.splitlines()]
            if self.mark.exists():
                self.sent, self.run_id = json.loads(self.mark.read_text())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{folder}: its records for MLflow are damaged ({error}); remove that folder") from error

    def put(self, kind: str, *content: Any) -> None:
        with self.journal.open("a") as file:
            file.write(json.dumps([kind, *content]) + "\n")
        disk.force(self.journal)
        self.events.append([kind, *content])

    def send(self) -> None:
        """Send the events that were not sent; remove the folder if the stage has ended. Raises whatever MLflow raises."""
        if self.sent < len(self.events):
            store = client()
            while self.sent < len(self.events):
                self.sent += self._send_next(store)
                disk.write(self.mark, json.dumps([self.sent, self.run_id]).encode())
        if self.events and self.events[-1][0] == "end":
            shutil.rmtree(self.folder)

    def _send_next(self, store: "MlflowClient") -> int:
        """Send the next event, and of metrics also those that follow; returns how many were sent."""
        from mlflow.entities import Metric

        match self.events[self.sent]:
            case ["metrics", *_]:
                numbers = list(takewhile(lambda event: event[0] == "metrics", self.events[self.sent : self.sent + 25]))
                batch = [Metric(name, v, now, step) for _, values, step, now in numbers for name, v in values.items()]
                store.log_batch(self.run_id, metrics=batch)
                return len(numbers)
            case ["begin", about]:
                self.run_id = _open(store, about, about["checkpoint"] or _trained(self.events))
            case ["tags", values]:
                for name, value in values.items():
                    store.set_tag(self.run_id, name, value)
            case ["artifact", name, folder]:
                if (self.folder / name).exists():  # otherwise it was sent just before an interruption
                    store.log_artifact(self.run_id, str(self.folder / name), folder)
                    (self.folder / name).unlink()
            case ["status", "RUNNING"]:
                store.update_run(self.run_id, status="RUNNING")
            case ["status" | "end", status]:
                store.set_terminated(self.run_id, status)
        return 1


def _open(store: "MlflowClient", about: dict[str, Any], checkpoint: str | None) -> str:
    """The id of the run of a model that the stage belongs to; the run is created if there is none. A training that is sent
    after measurements of its model joins their run."""
    from mlflow.entities import Param

    experiment = _experiment(store, about["study"])
    stage, method, params = about["stage"], about["method"], about["params"]

    def agree(known: dict[str, str]) -> bool:
        return all(known.get(key, value) == value for key, value in params.items())

    found = list(store.search_runs([experiment], f"tags.`run.uid` = '{about['uid']}'"))
    if not found and checkpoint:
        same = store.search_runs([experiment], f"tags.`checkpoint.sha256` = '{checkpoint}' and tags.method = '{method}'")
        specs = (None,) if stage == "train" else (None, about["spec"])
        found = [known for known in same if known.data.tags.get(f"spec.{stage}") in specs and agree(known.data.params)]
    if not found:
        name = about["experiment"]
        tags = {"run.uid": about["uid"], "study": about["study"], "method": method, "git.commit": about["commit"]}
        tags |= {"dvc.experiment": name or "workspace"} | ({"checkpoint.sha256": checkpoint} if checkpoint else {})
        found = [store.create_run(experiment, run_name=f"{method} {name}" if name else method, tags=tags)]
    run_id, known = found[0].info.run_id, found[0].data.params
    fresh = [Param(key, value) for key, value in params.items() if key not in known]
    for start in range(0, len(fresh), BATCH):
        store.log_batch(run_id, params=fresh[start : start + BATCH])
    store.update_run(run_id, status="RUNNING")
    store.set_tag(run_id, f"spec.{stage}", about["spec"])
    return run_id


class Run:
    """An open run."""

    def __init__(self, box: Outbox, uid: str):
        self.box, self.last = box, time.monotonic()
        self.uid: str | None = uid
        self.down = os.environ.get("ADVEBM_TRACKING", "").lower() == "outbox"
        self.reached = max((event[2] for event in box.events if event[0] == "metrics"), default=-math.inf)

    def metrics(self, values: Mapping[str, float | None], step: int = 0) -> None:
        """Log the numbers of a step, unless they were logged before an interruption."""
        numbers = {name: float(value) for name, value in values.items() if value is not None}
        if numbers and (step == 0 or step > self.reached):
            self.box.put("metrics", numbers, step, int(time.time() * 1000))
        if time.monotonic() - self.last > EVERY:
            self.send()

    def tags(self, **values: Any) -> None:
        self.box.put("tags", {name.replace("__", "."): str(value) for name, value in values.items()})

    def artifact(self, path: Path, folder: str | None = None) -> None:
        copy = self.box.folder / str(len(self.box.events)) / path.name
        copy.parent.mkdir()
        shutil.copyfile(path, copy)
        disk.force(self.box.folder, copy.parent, copy)
        self.box.put("artifact", str(copy.relative_to(self.box.folder)), folder)

    def send(self) -> None:
        """Send the outbox, unless it is to be kept; if that fails, report it and stop trying."""
        if self.down:
            return
        try:
            self.box.send()
        except Exception as error:  # MLflow raises what its store, its server or the network does
            self.down = True
            print(f"advebm: MLflow: {_reason(error)}; `advebm sync` sends what is left in {outbox()}", file=sys.stderr)
        self.last = time.monotonic()


class _Off(Run):
    """A run while tracking is off."""

    def __init__(self) -> None:
        self.uid = None

    def metrics(self, values: Mapping[str, float | None], step: int = 0) -> None: ...
    def tags(self, **values: Any) -> None: ...
    def artifact(self, path: Path, folder: str | None = None) -> None: ...


def outbox() -> Path:
    return project.root() / "state" / "outbox"


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
    this stage with another `spec` (what params.yaml says of the stage), or if the model comes from elsewhere. At the end
    what earlier stages left in the outbox is sent, too."""
    if not enabled():
        yield _Off()
        return
    uid = uid or f"{time.time_ns():x}-{uuid.uuid4().hex[:8]}"  # sorts by time
    folder = outbox() / uid
    folder.mkdir(parents=True, exist_ok=True)
    disk.force(outbox().parent, outbox())
    with FileLock(folder / "lock"):
        opened = Run(Outbox(folder), uid)
        digest = project.digest(spec)
        if opened.box.events:
            opened.box.put("status", "RUNNING")
        else:
            about = {"uid": uid, "stage": stage, "study": study, "method": method, "checkpoint": checkpoint, "spec": digest}
            about |= {"commit": _commit(), "experiment": os.environ.get("DVC_EXP_NAME")}
            opened.box.put("begin", {**about, "params": {key: str(value) for key, value in params.items()}})
        try:
            yield opened
        except BaseException as error:
            opened.box.put(*(("end", "FAILED") if isinstance(error, Exception) else ("status", "KILLED")))
            opened.send()
            raise
        opened.tags(**{f"stage__{stage}": "done"})
        opened.box.put("end", "FINISHED")
        opened.send()
    if not opened.down:
        with suppress(ConnectionError, ValueError):  # `runs` tells what waits
            sync()


def sync() -> int:
    """Send the outbox of all stages that are not running; returns of how many stages. Raises ConnectionError, or, after all
    others were sent, ValueError with the stages whose records MLflow refuses."""
    count, refused = 0, []
    for folder in sorted(outbox().glob("*")):
        try:
            with FileLock(folder / "lock", timeout=0):
                box = Outbox(folder)
                count += box.sent < len(box.events)
                box.send()
        except Timeout:
            continue
        except Exception as error:  # MLflow raises what its store, its server or the network does
            if getattr(error, "error_code", "") == "INVALID_PARAMETER_VALUE":
                refused.append(f"{folder} ({_reason(error)})")
                continue
            raise ConnectionError(f"MLflow: {_reason(error)}; unsent records stay in {outbox()}") from error
    if refused:
        raise ValueError(f"MLflow refuses the records in {'; '.join(refused)}; the other stages were sent")
    return count


def waiting(study: str) -> list[Path]:
    """The files of the study's outbox, oldest stage first."""
    found: list[Path] = []
    for journal in sorted(outbox().glob("*/events.jsonl")):
        events = Outbox(journal.parent).events
        if events and events[0][1]["study"] == study:
            files = (file for file in sorted(journal.parent.rglob("*")) if file.is_file())
            found += [file for file in files if file.name not in ("lock", "sent.json")]
    return found


def receive(uid: str, files: dict[str, Path]) -> None:
    """Put a stage's records from another machine into the outbox; `files` are by their names in the stage's folder.
    Records received before are not sent again."""
    journal = files["events.jsonl"].read_bytes()
    if received(uid, journal):
        return
    folder = outbox() / uid
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        for name in sorted(files, key="events.jsonl".__eq__):  # that one last, after the files that it names
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            disk.write(folder / name, files[name].read_bytes())
    disk.write(_counts(), json.dumps(_received() | {uid: journal.count(b"\n")}, indent=1).encode())


def received(uid: str, journal: bytes) -> bool:
    """Whether all records in a stage's events.jsonl were received before."""
    return journal.count(b"\n") <= _received().get(uid, 0)


def _counts() -> Path:
    return outbox().parent / "received.json"


def _received() -> dict[str, int]:
    """The number of events received from each stage, by its uid."""
    return json.loads(_counts().read_text()) if _counts().is_file() else {}


def checkpoints(journal: bytes) -> tuple[str | None, str | None]:
    """From a stage's events.jsonl: sha256 of the model that it measured, and of the one that it trained; None if it did
    not."""
    events = [json.loads(line) for line in journal.splitlines()]
    return events[0][1]["checkpoint"] if events else None, _trained(events)


def _trained(events: list[list[Any]]) -> str | None:
    """sha256 of the model that a stage has trained."""
    made = [event[1]["checkpoint.sha256"] for event in events if event[0] == "tags" and "checkpoint.sha256" in event[1]]
    return made[-1] if made else None


def _reason(error: Exception) -> str:
    """Why the store, its server or the network fails, in a line; after the store's path, if it is a file."""
    text = " ".join(str(getattr(error, "orig", None) or error).split())[:200]  # sqlalchemy's holds that of sqlite
    return f"{file}: {text}" if (file := _file()) else text


def runs(study: str) -> list["RunData"]:
    """Tags, params and metrics of each finished run of a study, newest first. Prints a line if some wait in the outbox.
    Raises ConnectionError where the store cannot be read."""
    unsent = {file.relative_to(outbox()).parts[0] for file in waiting(study)}
    if unsent:
        told = f"{len(unsent)} stages of {study} wait in {outbox()} and are not counted; `advebm sync` sends them"
        print(f"advebm: {told}", file=sys.stderr)
    try:
        store = client()
        found = store.get_experiment_by_name(f"advebm/{study}")
        if found is None:
            return []
        page = store.search_runs([found.experiment_id], "attributes.status = 'FINISHED'", max_results=1000)
    except Exception as error:  # MLflow raises what its store, its server or the network does
        advice = "if it is locked, wait; if it is damaged, move it away" if _file() else "see MLFLOW_TRACKING_URI"
        raise ConnectionError(f"MLflow cannot be read: {_reason(error)}; {advice}") from error
    return [run.data for run in page]
