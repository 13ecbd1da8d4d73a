"""One figure of DVC experiments that differ in a few numbers."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from typer import Argument, Option

from advebm import config
from advebm.reports.tables import about, table
from advebm.runtime.experiments import repository

if TYPE_CHECKING:
    import numpy as np

    from advebm.data.images import Images


class Experiment(NamedTuple):
    """A finished experiment: its params, and the quality and samples of its method."""

    params: dict[str, Any]
    quality: dict[str, dict[str, Any]]  # quality.json: by recipe, replay buffer or "baselines"
    samples: dict[str, "Images"]  # by recipe


def sweep(
    name: Annotated[str, Argument(help="the --name of the queued experiments")],
    metric: Annotated[
        list[str] | None, Option(help="a number of quality.json, may be repeated; one panel each [default: fid]")
    ] = None,
    out: Annotated[Path, Option(help="folder to write")] = Path("results", "sweeps"),
) -> None:
    """Plot sample quality against the numbers in which the experiments NAME-1, NAME-2, ... differ.

    Writes NAME.md, NAME.png and NAME.pdf (a line for each recipe: mean and standard deviation over seeds) and
    NAME_samples.png (a row of samples for each experiment and recipe, from its first seed).
    """
    metrics = metric or ["fid"]
    from advebm import figures

    found = list(experiments(name))
    lines: dict[str, dict[str, dict[Any, list[float]]]] = {key: {} for key in metrics}  # {metric: {line: {x: values}}}
    sheets: dict[str, np.ndarray] = {}
    differing = varied([experiment.params for experiment in found])
    axis, others = split(differing)
    for (_, quality, samples), values in zip(found, differing, strict=True):
        settings = [f"{short(key)} {written(values[key])}" for key in others]
        for recipe, numbers in quality.items():
            if recipe not in samples:
                continue
            line = ", ".join([*settings, recipe])
            place = recipe if axis is None else values[axis]
            for key in metrics:
                numeric = [other for other, value in numbers.items() if isinstance(value, int | float | None)]
                if key not in numeric:
                    raise ValueError(f"no number {key!r} in quality.json; there are {', '.join(numeric)}")
                if numbers[key] is not None:
                    lines[key].setdefault(line, {}).setdefault(place, []).append(numbers[key])
            label = line if axis is None else f"{short(axis)} {values[axis]}, {line}"
            sheets.setdefault(label, samples[recipe].x)
    if not sheets:
        raise ValueError(f"the methods of {name}-1, ... have no recipes, so there are no samples to score")
    ends = found[0].quality["baselines"]
    title = f"{name}: {found[0].params['study']}, {len(found)} experiments"
    figures.series(lines, ends, axis and short(axis), out / f"{name}.png", title)
    figures.sheets(sheets, out / f"{name}_samples.png", title, columns=12)
    text = "\n".join(table([*([short(axis)] if axis else []), "samples", *metrics, "runs"], rows(lines, axis)))
    (out / f"{name}.md").write_text(f"# {title}\n\n{text}\n", encoding="utf-8")
    print(text)
    print(f"wrote {out / name}.png, {out / name}_samples.png, {out / name}.md")


def experiments(name: str) -> Iterator[Experiment]:
    """The experiments NAME-1, NAME-2, ... Raises ValueError if there are none, or if they are from several commits."""
    import numpy as np

    from advebm.data.images import Images
    from advebm.runtime import yaml12

    numbered = re.compile(rf"{re.escape(name)}-\d+")
    with repository() as repo:
        listed = repo.experiments.ls(all_commits=True)
        of = {exp: (rev, base) for base, exps in listed.items() for exp, rev in exps if numbered.fullmatch(exp)}
        if not of:
            raise ValueError(f"no experiments {name}-1, ...; `dvc exp run --queue --name {name} -S ...` queues them")
        if len({base for _, base in of.values()}) > 1:
            raise ValueError(
                f"experiments {name}-1, ... are from several commits; remove the old ones with `dvc exp remove`"
            )
        for exp in sorted(of, key=lambda exp: int(exp.rsplit("-", 1)[1])):
            with repo.switch(of[exp][0]):
                files = repo.dvcfs
                content = yaml12.load(files.read_text("params.yaml"))
                folder = f"results/{content['study']}/{content['method']}"
                quality = json.loads(files.read_text(f"{folder}/quality.json"))
                samples = {}
                for recipe in config.effective(content, content["study"])["sampling"][content["method"]]:
                    with np.load(io.BytesIO(files.read_bytes(f"{folder}/samples/{recipe}.npz"))) as arrays:
                        samples[recipe] = Images(arrays["x"])
            yield Experiment(content, quality, samples)


def varied(params: list[Any], name: str = "") -> list[dict[str, Any]]:
    """For each experiment, the params that differ between experiments, by name, except the seed."""
    if all(isinstance(entry, dict) for entry in params):
        keys = dict.fromkeys(key for entry in params for key in entry if name or key != "seed")
        parts = [varied([entry.get(key) for entry in params], f"{name}.{key}".strip(".")) for key in keys]
        return [{key: value for part in parts for key, value in part[i].items()} for i in range(len(params))]
    return [{name: entry} for entry in params] if any(entry != params[0] for entry in params) else [{} for _ in params]


def split(differing: list[dict[str, Any]]) -> tuple[str | None, list[str]]:
    """The numeric param with the most values, for the axis, and the names of the others."""
    keys = list(differing[0])
    numeric = [key for key in keys if all(type(values[key]) in (int, float) for values in differing)]
    axis = max(numeric, key=lambda key: len({values[key] for values in differing}), default=None)
    return axis, [key for key in keys if key != axis]


def short(key: str) -> str:
    """The last parts of a param's name."""
    return ".".join(key.split(".")[-2:])


def written(value: Any) -> str:
    """A value as written in params.yaml."""
    return json.dumps(value).replace('"', "")


def rows(lines: dict[str, dict[str, dict[Any, list[float]]]], axis: str | None) -> list[list[Any]]:
    """A row for each place of each line: means and standard deviations over seeds."""
    import statistics

    made = []
    for line, place in dict.fromkeys((k, p) for named in lines.values() for k, places in named.items() for p in places):
        values = [lines[metric].get(line, {}).get(place, []) for metric in lines]
        cells = [about(statistics.mean(v), statistics.stdev(v) if len(v) > 1 else None) if v else None for v in values]
        made.append([*([place] if axis else []), line, *cells, max(map(len, values))])
    return made
