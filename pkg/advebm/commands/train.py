"""Training."""

import csv
from pathlib import Path
from typing import Annotated

from typer import Option

from advebm import config
from advebm.commands import options as o
from advebm.commands.prepare import about


def train(
    method: Annotated[str, o.Argument(help="an entry of the study's models, or judge")],
    data: o.Prepared,
    out: o.OutFolder,
    gaussians: Annotated[Path | None, Option(help="file that `gaussians` wrote, for methods that start there")] = None,
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
    seed: o.Seed = 0,
    quiet: o.Quiet = False,
) -> None:
    """Train a network; write model.safetensors, curves.csv and curves.png, and pictures of the state over time and
    replay_buffer.npz where a method has one."""
    entry = config.read(params, study, None if method == "judge" else method)
    described = about(data)
    import torch

    from advebm import figures, networks, progress, tracking
    from advebm.data import images
    from advebm.data.gaussians import Gaussians
    from advebm.methods.base import Context
    from advebm.training import fit

    model = config.model(entry, method)
    device = networks.device()
    start = None if gaussians is None else Gaussians.load(gaussians, device)
    context = Context(seed, tuple(described["shape"]), described["classes"], start, device)
    torch.manual_seed(seed)
    net = model.network.build(described["shape"], model.method.outputs(described["classes"])).to(device)
    rows: list[dict[str, float]] = []
    flat = config.flat({"seed": seed, "study": study, "method": method, **_entry(entry, method)})

    with tracking.run(stage="train", study=study, method=method, params=flat) as run:
        run.tags(data__sha256=described["sha256"])

        def log(step: int, values: dict[str, float]) -> None:
            rows.append({"step": step, **values})
            run.metrics(values, step)

        def watch(step: int, pictures: dict[str, torch.Tensor]) -> None:
            for name, x in pictures.items():
                path = out / "grids" / f"{name}_{step:06d}.png"
                figures.grid(images.to_bytes(x[:100]), path, f"{study} {method}: {name.replace('_', ' ')}, step {step}")
                run.artifact(path, "grids")

        net = fit(
            model.method,
            net,
            images.load(data / "train.npz"),
            images.load(data / "validation.npz"),
            model.training,
            context,
            log=log,
            watch=watch,
            outliers=images.load(data / "outliers.npz") if model.method.outliers else None,
            progress=progress.bar(f"train {study}/{method}", quiet),
        )
        checkpoint = out / "model.safetensors"
        networks.save(checkpoint, net, study=study, method=method, seed=seed, data=described["sha256"])
        with (out / "curves.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in rows)
        for name, x in model.method.images():
            images.save(out / f"{name}.npz", images.Images(images.to_bytes(x)))
        table = {name: [row[name] for row in rows] for name in rows[0]}
        run.artifact(figures.curves(table, out / "curves.png", f"{study} {method}"))
        run.tags(checkpoint__sha256=images.digest(checkpoint))
        run.artifact(checkpoint)
    scores = (f"{name} {value:.4g}" for name, value in rows[-1].items() if name.startswith("validation/"))
    print(f"wrote {checkpoint}: {', '.join(scores)}")


def _entry(study: dict, method: str) -> dict:
    return study["judge"] if method == "judge" else study["models"][method]
