"""Measurements: a command for each of MEASUREMENTS, and `look`, which makes all measurements of its stage."""

import inspect
import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from advebm import config
from advebm.commands import options as o
from advebm.evaluation import MEASUREMENTS, Measurement
from advebm.runtime import project

INPUTS = {  # a command's option for each input of its measurements
    "samples": Annotated[Path, Option(help="folder that `sample` wrote")],
    "gaussians": o.GaussiansFile,
    "judge": o.Judge,
    "baselines": Annotated[Path, Option(help="folder that `baselines` wrote")],
    "root": o.Root,
}


def command(name: str, about: str, measurements: list[Measurement]) -> Callable[..., None]:
    """Create the function behind a command that makes these measurements; its options are their inputs."""
    inputs = [key for key in INPUTS if any(key in measurement.inputs for measurement in measurements)]
    folder = any(measurement.picture for measurement in measurements)

    def run(method: str, model: Path, data: Path, out: Path, **more: Any) -> None:
        measure(measurements, method, model, data, out, **more)

    options: dict[str, Any] = {
        "method": o.Method,
        "model": o.ModelFile,
        "data": o.Prepared,
        "out": o.OutFolder if folder else o.OutFile,
    }
    options |= {key: INPUTS[key] for key in inputs} | {"study": o.Study, "params": o.Params, "quiet": o.Quiet}
    defaults = {"study": "digits", "params": o.PARAMS, "quiet": False, "root": None}
    kind, empty = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty
    listed = [
        inspect.Parameter(key, kind, default=defaults.get(key, empty), annotation=annotation)
        for key, annotation in options.items()
    ]
    listed.sort(key=lambda parameter: parameter.default is not empty)
    run.__name__, run.__doc__, run.__annotations__ = name, about, options
    run.__signature__ = inspect.Signature(listed)  # type: ignore[attr-defined]
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
    samples: Path = Path(),
    gaussians: Path = Path(),
    judge: Path = Path(),
    baselines: Path = Path(),
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
        precision=entry["precision"],
        root=project.data_root(root),
        bar=lambda name: progress.bar(f"{name} {study}/{method}", quiet),
        samples=samples,
        gaussians=gaussians,
        judge=judge,
        baselines=baselines,
    )
    checkpoint, stages = images.digest(model), config.stage_specs(entry, method)
    for measurement in measurements:
        name = measurement.name
        file = out / f"{name}.json" if measurement.picture else out
        if name not in specs:
            leave_out(measurement, file, f"{study} {method}")
            continue
        spec = stages[name]
        key = [method, spec, checkpoint, subject.about["sha256"], *subject.inputs(measurement.inputs)]
        with ExitStack() as stack:
            part = stack.enter_context(state.opened(name, file, key)).part
            result, drawn = specs[name].measure(subject, part)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(result.json(), indent=1) + "\n")
            tracked = tracking.run(stage=name, study=study, method=method, checkpoint=checkpoint, spec=spec)
            run = stack.enter_context(tracked)
            run.metrics(measurement.report.metrics(result))
            if measurement.picture:
                path = file.with_suffix(".png")
                run.artifact(measurement.report.picture(result, drawn, path, f"{study} {method}"), name)
        print(f"wrote {file}: {measurement.report.line(result)}")


def leave_out(measurement: Measurement, file: Path, title: str) -> None:
    """Write the outputs that DVC expects of a measurement that the study leaves out."""
    from advebm.figures.canvas import save_text

    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("{}\n")
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
