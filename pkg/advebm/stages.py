"""What each DVC stage depends on besides the files that it reads: its part of params.yaml and the code that makes its
results. `advebm check --out` writes a file for each stage and method that holds both; the stage depends on that file. So a
change of one method or measurement reruns only the stages that depend on it.
"""

from typing import Any

from advebm import config
from advebm.evaluation import MEASUREMENTS
from advebm.runtime.code import reached

COMPARED = ("reports.comparison", "reports.page", "figures")  # the report of one method does not use these
DRAWN = ("figures",)  # a changed figure is no reason to train again
TABLES = ("reports.base", "reports.tables")  # these do not change what a measurement writes


def parts(study: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """{"STAGE" or "STAGE/METHOD": {"params": ..., "code": {file: sha256}}} of a study that `config.read` has checked."""
    quality = {key: study[key] for key in ("samples", "quality")}
    found = {
        "prepare": part(study["data"], reached(["commands.prepare"])),
        "gaussians": part(study["gaussians"], reached(["commands.gaussians"])),
        "judge": part(study["judge"], training("standard")),
        "warm": part(study["warm"], training("standard", "at")),
        "baselines": part(quality, reached(["commands.baselines"], alone=["evaluation.subject"])),
        "report": part(study["data"], reporting(without=COMPARED)),
        "compare": part(study["data"], reporting()),
    }
    named: dict[str, list[str]] = {}  # measurements by stage
    for name, measurement in MEASUREMENTS.items():
        named.setdefault(measurement.stage, []).append(name)
    sampling, measured = reached(["commands.sample"]), {stage: measuring(names) for stage, names in named.items()}
    for method in study["models"]:
        specs = config.stage_specs(study, method)
        found[f"train/{method}"] = part(study["models"][method], training(method))
        found[f"sample/{method}"] = part(specs["sample"], sampling)
        for stage, names in named.items():
            detects = any(MEASUREMENTS[name].detects for name in names)
            own = reached([], alone=["methods.base", f"methods.{method}"]) if detects else {}
            found[f"{stage}/{method}"] = part({name: specs.get(name) for name in names}, measured[stage] | own)
    return found


def part(params: Any, code: dict[str, str]) -> dict[str, Any]:
    return {"params": params, "code": code}


def training(*methods: str) -> dict[str, str]:
    """The code that trains by these methods."""
    return reached(["commands.train", *(f"methods.{method}" for method in methods)], without=DRAWN)


def reporting(without: tuple[str, ...] = ()) -> dict[str, str]:
    """The code that reports results."""
    shown = [f"reports.{name}" for name in MEASUREMENTS]
    return reached(["commands.report", *shown], alone=[f"evaluation.{name}" for name in MEASUREMENTS], without=without)


def measuring(names: list[str]) -> dict[str, str]:
    """The code of these measurements, except that of the method whose detector they use."""
    roots, alone = ["networks", *(f"evaluation.{name}" for name in names)], ["commands.measure", "evaluation.subject"]
    for measurement in (MEASUREMENTS[name] for name in names):
        roots += [f"reports.{measurement.name}"] if measurement.picture else []
        roots += ["evaluation.generation"] if "gaussians" in measurement.inputs else []
    return reached(roots, alone=alone, without=TABLES)
