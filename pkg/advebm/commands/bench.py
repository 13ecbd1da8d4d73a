"""How fast the package is beside the plain way."""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from typer import Option

from advebm import config
from advebm.commands import options as o
from advebm.commands.baselines import Root
from advebm.commands.prepare import data_root
from advebm.commands.tables import Table, document

if TYPE_CHECKING:
    import torch

WHAT = ("gradient", "chains", "step", "sample", "evaluate")
ERROR = {"fp32": 0.05, "tf32": 0.3, "bf16": 0.5}  # most that the two ways may differ: signs turn where a gradient is near 0


class Job(NamedTuple):
    """The same work by two ways, on so many images; error: how far their results are from each other where both are
    deterministic, relative to the plain one's length; of a chain or an attack, the way that its images went."""

    name: str
    images: int
    plain: Callable[[], Any]
    fast: Callable[[], Any]
    error: Callable[[], float]
    float32: bool = False  # both ways, whatever training samples in


def bench(
    out: Annotated[Path, Option(help="the JSON file to write; the Markdown file lies beside it")],
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
    method: Annotated[
        list[str] | None, Option(help="a method to train, again for more; the first's network is measured [default: all]")
    ] = None,
    what: Annotated[list[str] | None, Option(help=f"{', '.join(WHAT)}, again for more [default: all]")] = None,
    change: Annotated[
        list[str] | None, Option("--set", help="KEY=VALUE of each method's entry, such as network.width=4")
    ] = None,
    batch: Annotated[int, Option(min=1, help="images at a time")] = 64,
    steps: Annotated[int, Option(min=1, help="of a chain or an attack that is measured by itself")] = 5,
    repeats: Annotated[int, Option(min=1, help="times that each way is run, in turn")] = 5,
    device: Annotated[str | None, Option(help="cpu or cuda [default: the GPU where there is one]")] = None,
    root: Root = None,
    quiet: o.Quiet = False,
) -> None:
    """Images a second of the package and of the plain way (plain.py), by turns in one run: medians and spread, memory,
    and the part of the machine's own rate of matrix multiplication.

    Images are noise; nothing is tracked or kept but the two files. Features by Inception are measured where its weights lie
    under the root. Raises RuntimeError, when they are written, where the
    two ways differ by more than ERROR.
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

    from advebm import networks, progress
    from advebm.commands.benches import jobs

    if device not in (None, "cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise ValueError(f"--device {device}: must be cpu, or cuda on a machine with a GPU")
    place = networks.device() if device is None else torch.device(device)
    torch.manual_seed(0)
    rates = matrix_rates(place)
    rows = []
    for make in progress.bar(f"bench {study}", quiet)(jobs(entry, methods, wanted, batch, steps, place, data_root(root))):
        job = make()
        row = {"name": job.name, "images": job.images, "float32": job.float32, "error": job.error()}
        rows.append(row | measured(job, repeats, rates, place))
    model = entry["models"][methods[0]]
    result = {
        "device": torch.cuda.get_device_name() if place.type == "cuda" else torch.cpu.get_capabilities()["cpu_name"],
        "threads": torch.get_num_threads(),
        "network": model["network"],
        "batch": batch,
        "steps": steps,
        "repeats": repeats,
        "tf32": place.type == "cuda" and torch.backends.cudnn.allow_tf32,
        "precision": "bf16" if model["training"].get("precision") == "bf16" and networks.has_bf16(place) else "fp32",
        "matrix_flops": rates,
        "rows": rows,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    text = markdown(study, result)
    out.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
    wrong = [f"{row['name']} {row['error']:.3g}" for row in rows if not row["error"] <= ERROR[kind(result, row)]]
    if wrong:
        raise RuntimeError(f"{out}: the two ways differ by more than is right: {', '.join(wrong)}; see {ERROR}")


def kind(result: dict[str, Any], row: dict[str, Any]) -> str:
    """What a row's faster way multiplies in."""
    if row["float32"] or (result["precision"] == "fp32" and not result["tf32"]):
        return "fp32"
    return "tf32" if result["precision"] == "fp32" else result["precision"]


def measured(job: Job, repeats: int, rates: dict[str, float], device: "torch.device") -> dict[str, Any]:
    """Of each way images a second (median, least, most), its peak of memory, and which part of the matrix rate the
    package's operations are at that speed; `ratio` is how many times faster the package is, by the medians and by the pairs
    that ran one after the other."""
    ways = {"plain": job.plain, "fast": job.fast}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    memory, flops = {}, {}
    for name, way in ways.items():
        memory[name], flops[name] = weighed(way)
        way()  # to warm up: what is weighed is not recorded as a graph
    for _ in range(repeats):
        for name, way in ways.items():
            synchronise(device)
            begun = time.perf_counter()
            way()
            synchronise(device)
            seconds[name].append(time.perf_counter() - begun)
    found: dict[str, Any] = {}
    for name, times in seconds.items():
        rate = [job.images / t for t in times]
        found[name] = {"images_per_s": statistics.median(rate), "least": min(rate), "most": max(rate)}
        part = flops[name] / statistics.median(times) / max(rates.values())
        found[name] |= {"memory_mb": memory[name], "of_matrix_rate": part}
    found["gflop_per_image"] = flops["fast"] / job.images / 1e9
    pairs = [plain / fast for plain, fast in zip(seconds["plain"], seconds["fast"], strict=True)]
    found["ratio"] = found["fast"]["images_per_s"] / found["plain"]["images_per_s"]
    return found | {"ratio_least": min(pairs), "ratio_most": max(pairs)}


def matrix_rates(device: "torch.device") -> dict[str, float]:
    """Operations a second of a product of two square matrices, the best of five, by precision."""
    import torch

    gpu = device.type == "cuda"
    n = 8192 if gpu else 1536
    rates = {}
    for name in ("float32", "tf32", "bfloat16") if gpu else ("float32", "bfloat16"):
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        a, b = torch.randn(2, n, n, device=device).to(torch.bfloat16 if name == "bfloat16" else torch.float32)
        for _ in range(5):
            synchronise(device)
            begun = time.perf_counter()
            a @ b
            synchronise(device)
            rates[name] = max(rates.get(name, 0.0), 2 * n**3 / (time.perf_counter() - begun))
        torch.backends.cuda.matmul.allow_tf32 = before
    return rates


def weighed(way: Callable[[], Any]) -> tuple[float, int]:
    """Peak memory in MB of the tensors that it makes, and the operations of its matrix products and convolutions."""
    import weakref

    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    from torch.utils.flop_counter import flop_registry

    class Count(TorchDispatchMode):
        operations = live = peak = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if function._overloadpacket in flop_registry:
                self.operations += flop_registry[function._overloadpacket](*args, **(kwargs or {}), out_val=result)
            known = {id(x.untyped_storage()) for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
            for x in tree_leaves(result):
                if isinstance(x, torch.Tensor) and id(storage := x.untyped_storage()) not in known:
                    known.add(id(storage))
                    self.live += storage.nbytes()
                    weakref.finalize(storage, self.freed, storage.nbytes())
            self.peak = max(self.peak, self.live)
            return result

        def freed(self, count: int) -> None:
            self.live -= count

    with Count() as count:
        way()
    return count.peak / 2**20, count.operations


def synchronise(device: "torch.device") -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()


def markdown(study: str, result: dict[str, Any]) -> str:
    header = [
        "what",
        "images/s plain",
        "images/s",
        "times faster",
        "GFLOP/image",
        "of matrix rate",
        "MB plain",
        "MB",
        "error",
    ]

    def spread(way: dict[str, Any]) -> str:
        return f"{way['images_per_s']:.4g} [{way['least']:.4g}, {way['most']:.4g}]"

    rows = [
        [
            row["name"],
            spread(row["plain"]),
            spread(row["fast"]),
            f"{row['ratio']:.2f} [{row['ratio_least']:.2f}, {row['ratio_most']:.2f}]",
            row["gflop_per_image"],
            row["fast"]["of_matrix_rate"],
            row["plain"]["memory_mb"],
            row["fast"]["memory_mb"],
            row["error"],
        ]
        for row in result["rows"]
    ]
    network = ", ".join(f"{key} {value}" for key, value in result["network"].items())
    rates = ", ".join(f"{name} {rate / 1e9:.4g} GFLOP/s" for name, rate in result["matrix_flops"].items())
    notes = (
        f"{result['device']}, {result['threads']} threads; network: {network}; batches of {result['batch']}; chains and "
        f"attacks of {result['steps']} steps; the package's gradients, chains and training steps sample in "
        f"{result['precision']}{', convolutions of float32 being TF32' if result['tf32'] else ''}; the plain way "
        "is in fp32, and what is generated and measured both ways.",
        "A training step is loss, gradients and optimiser, without reading or augmenting the batch.",
        f"Median, least and most of {result['repeats']} turns. Operations of matrix products and convolutions, "
        f"counted. Matrix multiplication: {rates}; the part is of the faster.",
        "Error: distance of the two results, without noise, over the length of the plain one; of a chain or an attack, the "
        f"way that its images went. A fault is more than {', '.join(f'{most} at {name}' for name, most in ERROR.items())}.",
    )
    return document(f"{study}: speed beside the plain way", [Table("Both in one run", header, rows, notes)])
