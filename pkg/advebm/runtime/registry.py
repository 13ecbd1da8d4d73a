"""MLflow's models. Each model file that is sent becomes one, which serving.py serves, and a version of the registered model
of its study. The newest version has the alias challenger; `advebm promote` gives the alias champion."""

import io
import json
from contextlib import redirect_stderr
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities import Run as MlflowRun
    from mlflow.entities.model_registry import ModelVersion

PACKAGE = Path(__file__).parents[1]
NEEDED = (  # to serve: the base installation, and MLflow
    *("annotated-types", "filelock", "mlflow", "numpy", "pillow", "pydantic", "safetensors", "torch", "tqdm", "typer"),
)
CHALLENGER, CHAMPION = "challenger", "champion"


def about(file: Path) -> dict[str, Any] | None:
    """What a model file says of itself; None where it is none that can be served. Does not import torch."""
    try:
        with safe_open(file, framework="np") as opened:
            said = json.loads((opened.metadata() or {})["advebm"])
    except (SafetensorError, OSError, KeyError, ValueError):
        return None
    return said if "threshold" in said else None  # those of earlier versions lack it


def log(store: "MlflowClient", run_id: str, file: Path, said: dict[str, Any]) -> None:
    """Log the model file as the MLflow model of a run, and register it, unless it is a judge or a warm start. What an
    earlier attempt has done is not done again."""
    run = store.get_run(run_id)
    model = _logged(store, run, file, said)
    if said["method"] not in ("judge", "warm"):
        _register(store, run, model, said)


def _logged(store: "MlflowClient", run: "MlflowRun", file: Path, said: dict[str, Any]) -> "LoggedModel":
    from mlflow import pyfunc
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus
    from mlflow.models import Model

    run_id, experiment = run.info.run_id, run.info.experiment_id
    for left in store.search_logged_models([experiment], f"source_run_id = '{run_id}'"):
        if left.status == LoggedModelStatus.READY:
            return left
        store.delete_logged_model(left.model_id)
    model = store.create_logged_model(experiment, said["method"], run_id, params=run.data.params)
    where = {"run_id": run_id, "model_id": model.model_id, "model_uuid": model.model_id}
    advice = io.StringIO()  # and progress bars
    with TemporaryDirectory(dir=file.parent) as folder, redirect_stderr(advice):
        pyfunc.save_model(
            f"{folder}/model",
            mlflow_model=Model(artifact_path=model.artifact_location, **where),
            python_model=str(PACKAGE / "serving.py"),
            artifacts={"model": str(file)},
            code_paths=[str(PACKAGE)],
            pip_requirements=requirements(said["network"]["kind"]),
            **_example(said["shape"]),
        )
        store.log_model_artifacts(model.model_id, f"{folder}/model")
    store.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return store.finalize_logged_model(model.model_id, LoggedModelStatus.READY)


def requirements(kind: str) -> list[str]:
    """The packages that a network of this kind needs, as they are installed here; torch without the name of its build."""
    names = (*NEEDED, "normflows") if kind in ("glow", "residual_flow") else NEEDED
    return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in names]


def _example(shape: list[int]) -> dict[str, Any]:
    """The signature, and an example of the input: a gray image."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, Array, ColSpec, DataType, Schema

    given = Schema([ColSpec(AnyType(), "image", required=False)])  # otherwise MLflow's answer has status 500 where it lacks
    seen = [ColSpec("long", "class", required=False), ColSpec(Array(DataType.double), "probabilities", required=False)]
    numbers = [ColSpec("double", "energy"), ColSpec("double", "score"), ColSpec("string", "distribution")]
    example = {"image": [np.full(shape, 0.5).tolist()]}
    return {"signature": ModelSignature(given, Schema([*seen, *numbers])), "input_example": example}


def _register(store: "MlflowClient", run: "MlflowRun", model: "LoggedModel", said: dict[str, Any]) -> None:
    """Make the model a version of its study's, and the challenger, unless another is newer."""
    from mlflow.exceptions import MlflowException

    study, run_id = said["study"], run.info.run_id
    try:
        store.create_registered_model(study, description=f"models of advebm's study {study}; alias champion by `promote`")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    found = [*store.search_model_versions(f"name = '{study}' and run_id = '{run_id}'")]
    if not found:
        tags = {name: str(said[name]) for name in ("method", "seed")}
        tags["checkpoint.sha256"] = run.data.tags["checkpoint.sha256"]
        place = {"source": model.artifact_location, "run_id": run_id, "model_id": model.model_id}
        found = [store.create_model_version(study, **place, tags=tags)]
    latest = newest(store, study)
    if latest is not None and latest.version == found[0].version:
        store.set_registered_model_alias(study, CHALLENGER, latest.version)


def aliased(store: "MlflowClient", study: str, alias: str) -> "ModelVersion | None":
    """The version of a study's registered model that has the alias."""
    from mlflow.exceptions import MlflowException

    try:
        return store.get_model_version_by_alias(study, alias)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None


def newest(store: "MlflowClient", study: str, method: str | None = None) -> "ModelVersion | None":
    """The newest version, of those by a method if one is given."""
    versions = store.search_model_versions(f"name = '{study}'")
    found = [version for version in versions if method in (None, version.tags.get("method"))]
    return max(found, key=lambda version: int(version.version), default=None)


def promote(store: "MlflowClient", version: "ModelVersion") -> None:
    """Make a version the champion; it is the challenger no more."""
    challenger = aliased(store, version.name, CHALLENGER)
    store.set_registered_model_alias(version.name, CHAMPION, version.version)
    if challenger is not None and challenger.version == version.version:
        store.delete_registered_model_alias(version.name, CHALLENGER)
