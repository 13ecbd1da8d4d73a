"""Mean and deviation over the seeds that were run."""

from typing import Annotated

from typer import Option

from advebm import config
from advebm.commands import options as o
from advebm.commands.report import table


def summary(
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
    metric: Annotated[list[str] | None, Option(help="part of a metric's name; may be given several times")] = None,
    all_params: Annotated[
        bool, Option("--any-params", help="also runs made with other numbers than today's params file")
    ] = False,
) -> None:
    """Gather the tracked runs of a study: mean and standard deviation of each metric over seeds, for each method.

    Of runs of the same method and seed the newest counts. By default only runs whose parameters are those of the params
    file count.
    """
    entry = config.read(params, study)
    import statistics

    from advebm import tracking

    newest: dict[tuple[str, str], dict] = {}
    for run in tracking.runs(study):
        method = run["method"]
        if method not in entry["models"] or "seed" not in run["params"]:
            continue
        expected = {key: str(value) for key, value in config.flat(entry["models"][method]).items()}
        if not all_params and any(run["params"].get(key) != value for key, value in expected.items()):
            continue
        newest.setdefault((method, run["params"]["seed"]), run)
    if not newest:
        raise ValueError(f"no tracked runs of {study} with these params; `dvc exp run` makes them")
    rows = []
    for method in entry["models"]:
        found = {seed: run["metrics"] for (m, seed), run in sorted(newest.items()) if m == method}
        wanted = metric or ["robustness/", "quality/", "ood/"]
        for name in sorted({key for values in found.values() for key in values if any(w in key for w in wanted)}):
            values = [m[name] for m in found.values() if name in m]
            deviation = statistics.stdev(values) if len(values) > 1 else None
            rows.append([method, name, statistics.mean(values), deviation, len(values), " ".join(found)])
    print("\n".join(table(["method", "metric", "mean", "deviation", "runs", "seeds"], rows)))
