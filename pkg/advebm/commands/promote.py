"""The champion among a study's models in MLflow."""

from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from advebm import config
from advebm.commands import options as o

if TYPE_CHECKING:
    from mlflow.entities import RunData
    from mlflow.entities.model_registry import ModelVersion


def promote(
    study: o.Study = "digits",
    method: Annotated[str | None, Option(help="its newest model [default: the challenger, the newest of all]")] = None,
    params: o.Params = o.PARAMS,
    force: Annotated[bool, Option("--force", help="promote also a model that is not better, or was not measured")] = False,
) -> None:
    """Make the challenger of a study the champion, if it is better by the metric that the study's `promote` names."""
    entry = config.read(params, study, method)
    by = entry["promote"]
    if by is None:
        raise ValueError(f"{params}: {study}.promote: is left out; write such as {{metric: quality/*/fid, best: lowest}}")
    from advebm.runtime import registry, tracking

    runs = tracking.runs(study)
    with tracking.connected() as store:
        champion = registry.aliased(store, study, registry.CHAMPION)
        if method is None:
            challenger = registry.aliased(store, study, registry.CHALLENGER) or champion  # which was the challenger
        else:
            challenger = registry.newest(store, study, method)
    if challenger is None:
        raise ValueError(f"MLflow has no model of {study}/{method or 'any method'}; `advebm sync` sends what was trained")
    if champion is not None and champion.version == challenger.version:
        print(f"{study}: {_named(challenger)} is the champion already")
        return
    rivals = [challenger] if champion is None else [challenger, champion]
    numbers = [value(runs, entry, version) for version in rivals]
    if not force:
        _check_better(study, by, rivals, numbers)
    with tracking.connected() as store:
        registry.promote(store, challenger)
    shown = [f"{_named(version)} {_shown(number)}" for version, number in zip(rivals, numbers, strict=True)]
    print(f"{study}: the champion is {', before it '.join(shown)} ({by['metric']}, {by['best']} is best)")


def _check_better(study: str, by: dict[str, str], rivals: list["ModelVersion"], numbers: list[float | None]) -> None:
    """Raises ValueError unless the first of the rivals, of which there may be no other, is better."""
    for version, number in zip(rivals, numbers, strict=True):
        if number is None:
            missing = f"{_named(version)} has no {by['metric']} by these params"
            raise ValueError(f"{study}: {missing}; `dvc repro` measures it; --force to promote")
    ours, *theirs = (number if by["best"] == "highest" else -number for number in numbers if number is not None)
    if theirs and ours <= theirs[0]:
        shown = [f"{_shown(number)}, {_named(version)}" for version, number in zip(rivals, numbers, strict=True)]
        told = f"challenger {shown[0]}, is not better than champion {shown[1]} ({by['metric']}, {by['best']} is best)"
        raise ValueError(f"{study}: {told}; --force to promote")


def value(runs: list["RunData"], entry: dict[str, Any], version: "ModelVersion") -> float | None:
    """The number by which a version is promoted, None where it was not measured by these params."""
    from advebm.runtime import project

    method, metric = version.tags.get("method", ""), entry["promote"]["metric"]
    stage = metric.partition("/")[0]
    if method not in entry["models"] or entry[stage] is None:
        return None
    names = {metric.replace("*", recipe) for recipe in entry["sampling"][method]} if "*" in metric else {metric}
    tags = {"method": method, "checkpoint.sha256": version.tags.get("checkpoint.sha256")}
    tags[f"spec.{stage}"] = project.digest(config.stage_specs(entry, method)[stage])
    own = [run.metrics for run in runs if tags.items() <= run.tags.items()]
    found = [metrics[name] for metrics in own for name in names & metrics.keys()]
    return (min if entry["promote"]["best"] == "lowest" else max)(found, default=None)


def _named(version: "ModelVersion") -> str:
    return f"version {version.version} ({version.tags.get('method', 'not of advebm')})"


def _shown(number: float | None) -> str:
    return "not measured" if number is None else f"{number:.4g}"
