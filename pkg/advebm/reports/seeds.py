"""The numbers of the tracked runs of a study, by seed."""

from typing import Any

from advebm import config
from advebm.evaluation import MEASUREMENTS
from advebm.runtime import project, tracking

COST = ("train/seconds", "train/divergences")


def over_seeds(entry: dict[str, Any], study: str) -> dict[tuple[str, str], dict[str, float]]:
    """{(method, name in MLflow): {seed: number}} of the runs with these params: measurements, what training cost, and how
    often it diverged, even if it failed. Of several with the same method and seed, the newest. Raises ValueError if there
    are none."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    runs = tracking.runs(study)  # newest first
    later = ("sample.", "steps.", *(f"{name}." for name in MEASUREMENTS))  # of stages after training

    def trained(params: dict[str, str]) -> dict[str, str]:
        return {key: value for key, value in params.items() if not key.startswith(later)}

    by_model = {run.tags.get("checkpoint.sha256"): own for run in runs if (own := trained(run.params))}
    for run in (*runs, *tracking.runs(study, "FAILED")):
        tags = run.tags
        logged = dict(by_model.get(tags.get("checkpoint.sha256"), trained(run.params)))  # a run may hold only measurements
        method, seed = tags.get("method", ""), logged.pop("seed", "")
        if method not in entry["models"] or logged != trained_with(entry, study, method):
            continue
        specs = config.stage_specs(entry, method).items()
        wanted = (*COST, *(f"{stage}/" for stage, spec in specs if tags.get(f"spec.{stage}") == project.digest(spec)))
        for name, value in run.metrics.items():
            if name.startswith(wanted):
                found.setdefault((method, name), {}).setdefault(seed, value)
    if not found:
        raise ValueError(f"no tracked runs of {study} with these params; `dvc exp run` makes them")
    return found


def trained_with(entry: dict[str, Any], study: str, method: str) -> dict[str, str]:
    """The parameters of a run of the method, except the seed."""
    flat = config.flat({"study": study, "method": method, **config.trained_by(entry, method)})
    return {key: str(value) for key, value in flat.items()}
