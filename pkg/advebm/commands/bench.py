"""Speed of the package and of the plain implementation."""

from typing import Annotated

from typer import Option

from advebm import config
from advebm.commands import options as o
from advebm.runtime import project

WHAT = ("gradient", "chains", "step", "sample", "evaluate")


def bench(
    out: o.NumbersFile,
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
    method: o.Methods = None,
    what: Annotated[list[str] | None, Option(help=f"{', '.join(WHAT)}; may be repeated [default: all]")] = None,
    change: o.Changes = None,
    batch: Annotated[int, Option(min=1, help="images in a batch")] = 64,
    size: Annotated[int | None, Option(min=4, help="side of the images [default: the study's]")] = None,
    steps: Annotated[int, Option(min=1, help="steps of a chain or an attack measured by itself")] = 5,
    repeats: Annotated[int, Option(min=1, help="times that each implementation is run, alternating")] = 5,
    device: Annotated[str | None, Option(help="cpu or cuda [default: the GPU if there is one]")] = None,
    root: o.Root = None,
    quiet: o.Quiet = False,
) -> None:
    """Measure images a second of the package and of the plain implementation (plain.py), alternating in one process:
    medians and spread, memory, and the fraction of the machine's rate of matrix multiplication. On a GPU, also measure the
    plain implementation with torch's defaults, which use TF32 in convolutions. Training steps are of each method, the rest
    of the first one's network.

    Images are noise; above 36x36 in colour there are no class Gaussians: samples and the steps of methods that start from
    them are left out. Only the two files are written. Features by Inception are measured if its weights are in the root.
    Raises RuntimeError, after writing the files, if the package and the plain implementation differ by more than ERROR.
    """
    entry = config.read(params, study)
    methods = method or list(entry["models"])
    for name in methods:
        config.read(params, study, name)
    config.change_models(entry, methods, change or [])
    config.check(entry, f"{params}: {study}")
    wanted = what or list(WHAT)
    for name in wanted:
        if name not in WHAT:
            raise ValueError(f"--what {name}: must be one of {', '.join(WHAT)}")
    import torch

    from advebm import networks
    from advebm.bench import timing
    from advebm.bench.jobs import Bench
    from advebm.runtime import disk, progress

    if device not in (None, "cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise ValueError(f"--device {device}: must be cpu, or cuda on a machine with a GPU")
    place = networks.device() if device is None else torch.device(device)
    torch.manual_seed(0)
    rates = timing.matrix_rates(place)
    rows: list[timing.Row] = []
    shared = Bench(entry, methods[0], batch, steps, place, project.data_root(root), size)
    for make in progress.bar(f"bench {study}", quiet)(shared.jobs(wanted, methods)):
        rows.append(timing.measured(make(), batch, repeats, rates, place))
    training = config.model(entry, methods[0]).training
    result = {
        "device": torch.cuda.get_device_name() if place.type == "cuda" else torch.cpu.get_capabilities()["cpu_name"],
        "threads": torch.get_num_threads(),
        "network": entry["models"][methods[0]]["network"],
        "shape": list(shared.context.shape),
        "batch": batch,
        "steps": steps,
        "repeats": repeats,
        "precision": timing.effective(training.precision, place),
        "loss_precision": timing.effective(training.loss_precision, place),
        "matrix_flops": rates,
        "rows": [row.json() for row in rows],
    }
    disk.write_report(out, result, timing.markdown(study, result, rows))
    wrong = [f"{row.name} {row.error:.3g}" for row in rows if not row.error <= timing.largest_error(result, row)]
    if wrong:
        raise RuntimeError(
            f"{out}: the two implementations differ too much: {', '.join(wrong)}; the limits are {timing.ERROR}"
        )
