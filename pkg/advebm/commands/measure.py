"""Measurements: a command for each of MEASUREMENTS, and `look`, which makes all measurements of its stage."""

from collections.abc import Callable
from contextlib import ExitStack
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any

from advebm import config
from advebm.commands import options as o
from advebm.commands import tracked
from advebm.evaluation import MEASUREMENTS, Measurement
from advebm.runtime import disk, project

INPUTS = {  # a command's option for each input of its measurements
    "samples": o.Samples,
    "gaussians": o.GaussiansFile,
    "judge": o.Judge,
    "baselines": o.Baselines,
    "root": o.Root,
}
DEFAULTS = {"root": None, "study": "digits", "params": o.PARAMS, "quiet": False}


def command(name: str, about: str, measurements: list[Measurement]) -> Callable[..., None]:
    """Create the function behind a command that makes these measurements; its options are their inputs."""

    def run(method: str, model: Path, data: Path, out: Path, **more: Any) -> None:
        measure(measurements, method, model, data, out, **more)

    options: dict[str, Any] = {"method": o.Method, "model": o.ModelFile, "data": o.Prepared}
    options["out"] = o.OutFolder if any(measurement.picture for measurement in measurements) else o.OutFile
    options |= {key: kind for key, kind in INPUTS.items() if any(key in m.inputs for m in measurements)}
    options |= {"study": o.Study, "params": o.Params, "quiet": o.Quiet}
    run.__name__, run.__doc__, run.__annotations__ = name, about, options
    parameters = [
        Parameter(key, Parameter.KEYWORD_ONLY, default=DEFAULTS.get(key, Parameter.empty), annotation=kind)
        for key, kind in options.items()
    ]
    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return run


def measure(
    measurements: list[Measurement],
    method: str,
    model: Path,
    data: Path,
    out: Path,
    study: str = "digits",
    params: Path = o.PARAMS,
    quiet: bool = False,
    root: Path | None = None,
    **inputs: Any,
) -> None:
    """Make the measurements of a model: write, draw and log each result in the model's run. Writes {} for a measurement
    that the study leaves out."""
    entry = config.read(params, study, method)
    recipes = config.recipes(entry, method)
    specs = {m.name: config.build(m.spec, entry[m.name]) for m in measurements if entry.get(m.name) is not None}
    from advebm.data import images
    from advebm.evaluation.subject import Subject
    from advebm.runtime import progress, state, tracking

    subject = Subject(
        method=method,
        name=f"{study}.sampling.{method}",
        model=model,
        data=data,
        detector=config.model(entry, method).method.detector,
        recipes=recipes,
        count=entry["samples"],
        out=entry["data"]["out"],
        precision=entry["precision"],
        root=project.data_root(root),
        bar=lambda name: progress.bar(f"{name} {study}/{method}", quiet),
        **inputs,
    )
    checkpoint, stages = images.digest(model), config.stage_specs(entry, method)
    with tracking.sending():  # one process for all
        for measurement in measurements:
            name, title = measurement.name, f"{study} {method}"
            file = out / f"{name}.json" if measurement.picture else out
            if name not in specs:
                leave_out(measurement, file, title)
                continue
            key = [method, stages[name], checkpoint, subject.about["sha256"], *subject.inputs(measurement.inputs)]
            with ExitStack() as stack:
                part = stack.enter_context(state.opened(name, file, key, __name__, specs[name].__module__)).part
                result, drawn = specs[name].measure(subject, part)
                disk.write_json(file, result.json(), sealed=True)
                known = tracked.params(entry, study, method, name, model)
                opened = tracking.run(name, study, method, params=known, checkpoint=checkpoint, spec=stages[name])
                run = stack.enter_context(opened)
                run.metrics(measurement.report.metrics(result))
                if measurement.picture:
                    for picture in measurement.report.pictures(result, drawn, file.with_suffix(".png"), title):
                        run.artifact(picture, name)
            print(f"wrote {file}: {measurement.report.line(result)}")


def leave_out(measurement: Measurement, file: Path, title: str) -> None:
    """Write the outputs that DVC expects of a measurement that the study leaves out."""
    from advebm.figures.canvas import save_text

    disk.write_json(file, {})
    if measurement.picture:
        save_text("not measured", file.with_suffix(".png"), title)
    print(f"wrote {file}: the study leaves it out")


def commands() -> dict[str, Callable[..., None]]:
    """The commands by name."""
    found = {name: command(name, m.about, [m]) for name, m in MEASUREMENTS.items()}
    for stage in {m.stage: None for m in MEASUREMENTS.values() if m.stage not in MEASUREMENTS}:
        shared = [m for m in MEASUREMENTS.values() if m.stage == stage]
        found[stage] = command(stage, f"Run these commands in turn: {', '.join(m.name for m in shared)}.", shared)
    return found
