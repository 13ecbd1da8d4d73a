"""Mean and standard deviation over seeds."""

from typing import Annotated, Any

from typer import Option

from advebm import config
from advebm.commands import options as o
from advebm.reports.tables import table
from advebm.runtime import project


def summary(
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
    metric: Annotated[list[str] | None, Option(help="part of a metric's name, may be repeated")] = None,
) -> None:
    """Summarise the tracked runs of a study: mean and standard deviation of each metric over seeds, for each method.

    Only runs with the parameters of the params file count; of several with the same method and seed, only the newest.
    """
    entry = config.read(params, study)
    import statistics

    from advebm.runtime import tracking

    found: dict[tuple[str, str], dict[str, float]] = {}  # (method, metric): {seed: value}
    runs = tracking.runs(study)  # newest first
    trained = {run.tags.get("checkpoint.sha256"): run.params for run in runs if run.params}
    for run in runs:
        tags = run.tags
        logged = dict(trained.get(tags.get("checkpoint.sha256"), {}))  # a run may hold only measurements
        method, seed = tags.get("method", ""), logged.pop("seed", "")
        if method not in entry["models"] or logged != trained_with(entry, study, method):
            continue
        for stage, spec in config.stage_specs(entry, method).items():
            if tags.get(f"spec.{stage}") == project.digest(spec):
                for name, value in run.metrics.items():
                    if name.startswith(f"{stage}/") and any(part in name for part in metric or [""]):
                        found.setdefault((method, name), {}).setdefault(seed, value)
    if not found:
        raise ValueError(f"no tracked runs of {study} with these params; `dvc exp run` makes them")
    rows = []
    for method in entry["models"]:
        for (_, name), values in sorted((key, values) for key, values in found.items() if key[0] == method):
            deviation = statistics.stdev(values.values()) if len(values) > 1 else None
            seeds = " ".join(sorted(str(seed) for seed in values))
            rows.append([method, name, statistics.mean(values.values()), deviation, len(values), seeds])
    print("\n".join(table(["method", "metric", "mean", "deviation", "runs", "seeds"], rows)))


def trained_with(entry: dict[str, Any], study: str, method: str) -> dict[str, str]:
    """The parameters of a run of the method, except the seed."""
    flat = config.flat({"study": study, "method": method, **config.trained_by(entry, method)})
    return {key: str(value) for key, value in flat.items()}
