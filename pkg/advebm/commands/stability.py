"""How often training diverges, and how often it recovers."""

import json
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from advebm import config
from advebm.commands import options as o
from advebm.reports.tables import Table, document


def stability(
    data: o.Prepared,
    gaussians: o.GaussiansFile,
    out: o.NumbersFile,
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
    method: o.Methods = None,
    seeds: Annotated[int, Option(min=1, help="trainings of each method, with seeds 0, 1, ...")] = 5,
    warm: o.WarmFolder = None,
    change: o.Changes = None,
    quiet: o.Quiet = False,
) -> None:
    """Train each method with several seeds; count how many trainings diverge, at which step, and how many recover.

    If interrupted, the command resumes after the last finished training.
    """
    entry = config.read(params, study)
    import tempfile
    from functools import partial

    import torch

    from advebm.commands.train import train
    from advebm.data import images
    from advebm.data.prepared import about
    from advebm.runtime import disk
    from advebm.runtime.state import opened
    from advebm.training import Diverged

    methods = method or list(entry["models"])
    for name in methods:
        config.read(params, study, name)
    config.change_models(entry, methods, change or [])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "params.yaml")
        file.write_text(json.dumps({study: entry}))  # YAML too
        entries = {name: config.read(file, study, name)["models"][name] for name in methods}

        def steps(name: str, seed: int) -> torch.Tensor:
            """The steps at which a training diverged, then -1 if it completed."""
            place = state.folder / f"{name}-{seed}"
            try:
                train(name, data, place, gaussians, study=study, params=file, seed=seed, warm=warm, quiet=quiet)
            except Diverged as error:
                return torch.tensor([*(event["step"] for event in error.recoveries), error.step])
            events = place / "recoveries.json"
            recovered = disk.read_json(events, "train")["recoveries"] if events.exists() else []
            return torch.tensor([*(event["step"] for event in recovered), -1])

        start = None if warm is None else images.digest(warm / "model.safetensors")
        key = [study, entries, about(data)["sha256"], images.digest(gaussians), start]
        with opened("stability", out, key, __name__) as state:
            found = {
                name: [state.part(f"{name} {seed}", partial(steps, name, seed)).tolist() for seed in range(seeds)]
                for name in methods
            }
            numbers = {name: summary(runs) for name, runs in found.items()}
            disk.write_report(out, numbers, markdown(study, numbers, change or []))


def summary(runs: list[list[int]]) -> dict[str, Any]:
    """Summarise runs, each the steps at which it diverged, then -1 if it completed."""
    diverged = [run for run in runs if run != [-1]]
    return {
        "runs": len(runs),
        "diverged": len(diverged),
        "first": [run[0] for run in diverged],
        "recovered": sum(run[-1] == -1 for run in diverged),
        "recoveries": sum(len(run) - 1 for run in diverged),
    }


def markdown(study: str, numbers: dict[str, Any], changes: list[str]) -> str:
    rows = [
        [name, n["runs"], n["diverged"], ", ".join(map(str, n["first"])) or None, n["recovered"], n["recoveries"]]
        for name, n in numbers.items()
    ]
    header = ["method", "trainings", "diverged", "first at step", "of these recovered", "recoveries"]
    what = f"with {', '.join(changes)}" if changes else "as params.yaml has them"
    return document(f"{study}: stability", [Table(f"Trainings {what}", header, rows)])
