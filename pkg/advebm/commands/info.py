"""Describe the installation, a model file or a study; validate the params file."""

from importlib import metadata
from typing import Annotated, Any

from typer import Argument, Option

from advebm import config
from advebm.commands import options as o
from advebm.reports.tables import table
from advebm.runtime import disk, project


def info(
    model: Annotated[o.Path | None, Argument(help="a model.safetensors to describe")] = None,
    study: Annotated[str | None, Option(help="a study to print as a params file, with all that it inherits")] = None,
    params: o.Params = o.PARAMS,
) -> None:
    """Print versions, device, studies and methods; or describe a model file; or print the effective params of a study."""
    if study is not None:
        print(written(study, config.read(params, study)), end="")
        return
    if model is not None:
        from advebm import networks

        net, header = networks.load(model)
        numbers = config.flat(header) | {"parameters": sum(p.numel() for p in net.parameters())}
        print("\n".join(table(["", str(model)], [[key, str(value)] for key, value in numbers.items()])))
        return
    import torch

    content = config.read_yaml(params) if params.is_file() else {}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    rows: list[list[Any]] = [
        *([name, _version(name)] for name in ("advebm", "torch", "torchvision", "torch-fidelity", "dvc", "mlflow")),
        ["device", f"{device}, {torch.get_num_threads()} threads"],
        ["data root", str(project.data_root())],
        *(
            [f"study {name}", f"like {content[name]['like']}" if "like" in content[name] else None]
            for name in config.studies(content)
        ),
        ["methods", content.get("methods")],
    ]
    print("\n".join(table(["", "advebm"], rows)))


def written(study: str, entry: dict[str, Any]) -> str:
    """The effective params of a study as a params file."""
    import yaml

    return yaml.safe_dump({study: entry}, sort_keys=False)


def _version(package: str) -> str:
    """The version of an installed package, or "-"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "-"


def shares(study: dict[str, Any], method: str) -> dict[str, int]:
    """{param: count} of what the processes of the method's training, the judge's and the warm start's share."""
    found = {}
    for name in (method, *(other for other in config.OTHERS if study.get(other))):
        model, key = config.model(study, name), name if name in config.OTHERS else f"models.{name}"
        if model.method.shared:
            found[f"{key}.training.batch"] = model.training.batch
            if buffer := getattr(model.method, "buffer", None):
                found[f"{key}.buffer.size"] = buffer.size
    return found


def check(
    method: o.Method,
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
    out: Annotated[o.Path | None, o.Option(help="folder to write the study's effective params and its parts to")] = None,
) -> None:
    """Validate the params file before any long stage."""
    config.check_top(params)
    entry = config.read(params, study, method)
    if (processes := config.processes(params)) > 1:
        for key, count in shares(entry, method).items():
            if count % processes:
                what = f"{processes} processes (launch) cannot share {study}.{key} of {count} evenly"
                raise ValueError(f"{params}: {what}; take a multiple")
    if out is not None:
        from advebm import stages

        for name, part in stages.parts(entry).items():
            disk.write_json(out / f"{name}.json", part)
        (out / "params.yaml").write_text(written(study, entry))
    print(f"{params}: {study} is valid")
