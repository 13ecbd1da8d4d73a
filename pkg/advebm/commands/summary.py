"""Mean and standard deviation over seeds."""

from typing import Annotated

from typer import Option

from advebm import config
from advebm.commands import options as o
from advebm.reports.tables import table


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

    from advebm.reports.seeds import over_seeds

    wanted = metric or [""]
    found = {key: seeds for key, seeds in over_seeds(entry, study).items() if any(part in key[1] for part in wanted)}
    if not found:
        raise ValueError(f"--metric {', '.join(wanted)}: part of no metric's name; without it all are shown")
    rows = []
    for method in entry["models"]:
        for (_, name), values in sorted((key, values) for key, values in found.items() if key[0] == method):
            deviation = statistics.stdev(values.values()) if len(values) > 1 else None
            seeds = " ".join(sorted(str(seed) for seed in values))
            rows.append([method, name, statistics.mean(values.values()), deviation, len(values), seeds])
    print("\n".join(table(["method", "metric", "mean", "deviation", "runs", "seeds"], rows)))
