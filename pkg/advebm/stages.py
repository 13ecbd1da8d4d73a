"""What each DVC stage depends on besides the files that it reads: its part of params.yaml and the code that makes its
results. `advebm check --out` writes a file for each stage and method that holds both; the stage depends on that file. So a
change of one method or measurement reruns only the stages that depend on it.
"""

from collections.abc import Sequence
from typing import Any

from advebm import config
from advebm.evaluation import MEASUREMENTS
from advebm.runtime.code import reached

IDLE = (  # files that cannot change a result: configuration, tables of names, storage, progress and tracking
    *("config.py", "ranges.py", "commands/options.py", "methods/__init__.py", "evaluation/__init__.py"),
    *(f"runtime/{name}.py" for name in ("code", "disk", "outbox", "progress", "project", "signals", "state", "tracking")),
)
COMPARED = (  # the report of one method does not use these
    *("reports/comparison.py", "reports/detectors.py", "reports/scores.py", "figures/"),
)
DRAWN = ("figures/",)  # a changed figure is no reason to train again
TABLES = ("reports/base.py", "reports/tables.py")  # these do not change what a measurement writes


def parts(study: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """{"STAGE" or "STAGE/METHOD": {"params": ..., "code": {file: sha256}}} of a study that `config.read` has checked."""
    quality = {key: study[key] for key in ("samples", "quality")}
    found = {
        "sources": part(study["data"], code(["commands.sources"])),
        "prepare": part(study["data"], code(["commands.prepare"])),
        "gaussians": part(study["gaussians"], code(["commands.gaussians"])),
        "judge": part(study["judge"], training("standard")),
        "warm": part(study["warm"], training("standard", "at")),
        "baselines": part(quality, code(["commands.baselines"], alone=["evaluation.subject"])),
        "report": part(study["data"], reporting(without=COMPARED)),
        "compare": part(study["data"], reporting()),
    }
    named: dict[str, list[str]] = {}  # measurements by stage
    for name, measurement in MEASUREMENTS.items():
        named.setdefault(measurement.stage, []).append(name)
    sampling, measured = code(["commands.sample"]), {stage: measuring(names) for stage, names in named.items()}
    for method in study["models"]:
        specs = config.stage_specs(study, method)
        found[f"train/{method}"] = part(study["models"][method], training(method))
        found[f"sample/{method}"] = part(specs["sample"], sampling)
        for stage, names in named.items():
            detects = any(MEASUREMENTS[name].detects for name in names)
            own = code([], alone=["methods.base", f"methods.{method}"]) if detects else {}
            found[f"{stage}/{method}"] = part({name: specs.get(name) for name in names}, measured[stage] | own)
    return found


def part(params: Any, files: dict[str, str]) -> dict[str, Any]:
    return {"params": params, "code": files}


def code(roots: list[str], *, alone: Sequence[str] = (), without: Sequence[str] = ()) -> dict[str, str]:
    """{file: sha256} of the code that makes a result, see `reached`."""
    return reached(roots, alone=alone, without=(*IDLE, *without))


def training(*methods: str) -> dict[str, str]:
    """The code that trains by these methods."""
    return code(["commands.train", *(f"methods.{method}" for method in methods)], without=DRAWN)


def reporting(without: tuple[str, ...] = ()) -> dict[str, str]:
    """The code that reports results."""
    shown = [f"reports.{name}" for name in MEASUREMENTS]
    return code(["commands.report", *shown], alone=[f"evaluation.{name}" for name in MEASUREMENTS], without=without)


def measuring(names: list[str]) -> dict[str, str]:
    """The code of these measurements, except that of the method whose detector they use."""
    roots, alone = ["networks", *(f"evaluation.{name}" for name in names)], ["commands.measure", "evaluation.subject"]
    for measurement in (MEASUREMENTS[name] for name in names):
        roots += [f"reports.{measurement.name}"] if measurement.picture else []
        roots += ["evaluation.generation"] if "gaussians" in measurement.inputs else []
    return code(roots, alone=alone, without=TABLES)
