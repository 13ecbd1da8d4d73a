"""MLflow: one run a model, across the stages that make and measure it. The only file that knows MLflow.

On where DVC runs a stage, or where MLFLOW_TRACKING_URI is set; ADVEBM_TRACKING=off turns it off. By default the store is
mlflow.db beside dvc.yaml and the artifacts are in mlartifacts/, also for experiments that DVC runs in a temporary folder.
Nothing reads from it but `advebm summary`: with tracking off every file comes out the same.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from advebm import config

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_ENABLE_ASYNC_LOGGING", "false")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

FLUSH = 200  # numbers that wait at most before they are sent, in one request


def root() -> Path:
    """The folder of the project: DVC tells it to a stage, also where that runs in a copy."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()


def uri() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root() / 'mlflow.db'}"


def enabled() -> bool:
    if os.environ.get("ADVEBM_TRACKING", "on").lower() in ("off", "0", "false", "no"):
        return False
    return "DVC_ROOT" in os.environ or "MLFLOW_TRACKING_URI" in os.environ


def client():
    """A client of the store, which is made first, by one process at a time, where it is a new sqlite file."""
    import logging

    from filelock import FileLock
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not uri().startswith("sqlite:///"):
        return MlflowClient(uri())
    file = Path(uri().removeprefix("sqlite:///"))
    with FileLock(file.with_suffix(".lock")):
        result = MlflowClient(uri())
        result.search_experiments(max_results=1)
    return result


def _experiment(client, study: str) -> str:
    from mlflow.exceptions import MlflowException

    name = f"advebm/{study}"
    found = client.get_experiment_by_name(name)
    if found is None:
        place = (root() / "mlartifacts" / study).as_uri() if uri().startswith("sqlite:") else None
        try:
            return client.create_experiment(name, artifact_location=place)
        except MlflowException:  # another process was first
            found = client.get_experiment_by_name(name)
    return found.experiment_id


def _commit() -> str:
    if "DVC_EXP_BASELINE_REV" in os.environ:
        return os.environ["DVC_EXP_BASELINE_REV"]
    git = subprocess.run(["git", "-C", root(), "rev-parse", "HEAD"], capture_output=True, text=True)
    return git.stdout.strip() or "none"


class Run:
    """An open run: numbers wait and go out together."""

    def __init__(self, client, run_id: str):
        self.client, self.run_id, self.waiting = client, run_id, []

    def metrics(self, values: dict[str, float | None], step: int = 0) -> None:
        import time

        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.waiting += [Metric(name, float(v), now, step) for name, v in values.items() if v is not None]
        if len(self.waiting) >= FLUSH:
            self.flush()

    def flush(self) -> None:
        while self.waiting:
            self.client.log_batch(self.run_id, metrics=self.waiting[:1000])
            del self.waiting[:1000]

    def tags(self, **values: Any) -> None:
        for name, value in values.items():
            self.client.set_tag(self.run_id, name.replace("__", "."), str(value))

    def artifact(self, path: Path, folder: str | None = None) -> None:
        self.client.log_artifact(self.run_id, str(path), folder)


class _Off:
    """Tracking that is off."""

    def metrics(self, values, step=0): ...
    def tags(self, **values): ...
    def artifact(self, path, folder=None): ...


@contextmanager
def run(
    *,
    stage: str,
    study: str,
    method: str,
    params: dict[str, Any] | None = None,
    checkpoint: str | None = None,
    spec: Any = None,
) -> Iterator[Run | _Off]:
    """The run of a model. Training, which gives `params`, opens a new one; a later stage gives the sha256 of the model's
    `checkpoint` and goes on in the run that made it. Where that run already holds this stage by another `spec` (what
    params.yaml says of the stage), or where the model came from elsewhere, a new one is opened."""
    if not enabled():
        yield _Off()
        return
    from mlflow.entities import Param

    store = client()
    experiment = _experiment(store, study)
    same = f"tags.`checkpoint.sha256` = '{checkpoint}' and tags.method = '{method}'"
    digest = config.digest(spec)
    found = [
        known
        for known in (store.search_runs([experiment], same) if checkpoint else [])
        if known.data.tags.get(f"spec.{stage}", digest) == digest
    ]
    if found:
        opened = Run(store, found[0].info.run_id)
    else:
        name = os.environ.get("DVC_EXP_NAME")
        opened = Run(store, store.create_run(experiment, run_name=f"{method} {name}" if name else method).info.run_id)
        opened.tags(study=study, method=method, git__commit=_commit(), dvc__experiment=name or "workspace")
        if checkpoint:
            opened.tags(checkpoint__sha256=checkpoint)
    if params:
        store.log_batch(opened.run_id, params=[Param(key, str(value)) for key, value in params.items()])
    store.update_run(opened.run_id, status="RUNNING")
    opened.tags(**{"dvc__stage": stage, f"spec__{stage}": digest})
    status = "FAILED"
    try:
        yield opened
        status = "FINISHED"
    finally:
        opened.flush()
        if status == "FINISHED":
            opened.tags(**{f"stage__{stage}": "done"})
        store.update_run(opened.run_id, status=status)


def runs(study: str) -> list[dict[str, Any]]:
    """{tags, params, metrics} of each finished run of a study, newest first."""
    store = client()
    found = store.get_experiment_by_name(f"advebm/{study}")
    if found is None:
        return []
    page = store.search_runs([found.experiment_id], "attributes.status = 'FINISHED'", max_results=1000)
    return [{"tags": r.data.tags, "params": r.data.params, "metrics": r.data.metrics} for r in page]
