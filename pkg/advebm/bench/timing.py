"""How fast the package is beside the plain way: timing of jobs, and the table of them."""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from advebm.reports.tables import Table, document

if TYPE_CHECKING:
    import torch

ERROR = {"fp32": 0.05, "tf32": 0.3, "bf16": 0.5}  # most that the two ways may differ: signs turn where a gradient is near 0


class Job(NamedTuple):
    """The same work by several ways, on so many images: run(way, calm), the way being plain, default, fast or eager (see
    `jobs.ways`). `calm` is without randomness, and gives what the ways are compared by: of a chain or an attack, the
    way that its images went."""

    name: str
    images: int
    run: Callable[[str, bool], Any]
    float32: bool = False  # by the package too, whatever training samples in


def effective(precision: str, device: "torch.device") -> str:
    """What passes of that precision are in on this machine."""
    from advebm.bench.jobs import has_tf32
    from advebm.networks.passes import has_bf16

    if precision == "bf16" and has_bf16(device):
        return "bf16"
    return "tf32" if has_tf32(device) and precision != "fp32" else "fp32"


def kind(result: dict[str, Any], row: dict[str, Any]) -> str:
    """The coarsest precision of the package in a row."""
    return (
        "fp32" if row["float32"] else max((result[name] for name in ("precision", "loss_precision")), key=ERROR.__getitem__)
    )


def measured(job: Job, repeats: int, rates: dict[str, float], device: "torch.device") -> dict[str, Any]:
    """Of each way images a second (median, least, most), its peak of memory, and which part of the matrix rate its
    operations are at that speed; `error` is how far the package's result is from the plain one, relative to its length.

    `ratio` is how many times faster the package is than the plain way, `ratio_default` than that as torch is (None where it
    is the same way): by the medians and, least and most, by the pairs of a turn.
    """
    from advebm.bench.jobs import distance, ways

    runs = ways(job, device)
    found: dict[str, Any] = {"error": distance(runs["fast"](True), runs["plain"](True))}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    memory, flops = {}, {}
    for name, run in ways(job, device, "eager").items():
        memory[name], flops[name] = weighed(partial(run, False), device)
        runs[name](False)  # to warm up
    for _ in range(repeats):
        for name, run in runs.items():
            synchronise(device)
            begun = time.perf_counter()
            run(False)
            synchronise(device)
            seconds[name].append(time.perf_counter() - begun)
    for name, times in seconds.items():
        rate = [job.images / t for t in times]
        found[name] = {"images_per_s": statistics.median(rate), "least": min(rate), "most": max(rate)}
        part = flops[name] / statistics.median(times) / max(rates.values())
        found[name] |= {"memory_mb": memory[name], "of_matrix_rate": part}
    found["gflop_per_image"] = flops["fast"] / job.images / 1e9
    for key, slow in {"ratio": "plain", "ratio_default": "default"}.items():
        pairs = [t / fast for t, fast in zip(seconds[slow], seconds["fast"], strict=True)] if slow in runs else []
        found[key] = found["fast"]["images_per_s"] / found[slow]["images_per_s"] if pairs else None
        found |= {f"{key}_least": min(pairs, default=None), f"{key}_most": max(pairs, default=None)}
    return found


def matrix_rates(device: "torch.device") -> dict[str, float]:
    """Operations a second of a product of two square matrices, the best of five, by precision."""
    import torch

    gpu = device.type == "cuda"
    n = 8192 if gpu else 1536
    rates: dict[str, float] = {}
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


def weighed(way: Callable[[], Any], device: "torch.device") -> tuple[float, int]:
    """Peak memory in MB of the tensors that it makes, and the operations of its matrix products and convolutions."""
    from torch.utils.flop_counter import FlopCounterMode
    from torch.utils.module_tracker import ModuleTracker

    class Whole(ModuleTracker):
        """Follows no module: what follows one fails where a gradient is of its input."""

        def __enter__(self) -> "Whole":
            return self

        def __exit__(self, *error: object) -> None:
            pass

    operations = FlopCounterMode(display=False)
    operations.mod_tracker = Whole()
    with operations:
        peak = peak_on_gpu(way) if device.type == "cuda" else peak_on_cpu(way)
    return peak / 2**20, operations.get_total_flops()


def peak_on_gpu(way: Callable[[], Any]) -> int:
    """Bytes that are allocated at most while it runs, beside those before."""
    import torch

    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    way()
    return torch.cuda.max_memory_allocated() - before


def peak_on_cpu(way: Callable[[], Any]) -> int:
    """As `peak_on_gpu`, by the trace of torch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler notes its start and stop otherwise
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        way()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(trace))
        events = [event for event in json.loads(trace.read_text())["traceEvents"] if event["name"] == "[memory]"]
    first, *_ = changes = [event["args"] for event in sorted(events, key=itemgetter("ts"))]
    return max(change["Total Allocated"] for change in changes) - (first["Total Allocated"] - first["Bytes"])


def synchronise(device: "torch.device") -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()


def markdown(study: str, result: dict[str, Any]) -> str:
    header = [
        "what",
        "images/s plain",
        "plain, TF32",
        "package",
        "times plain",
        "times TF32",
        "GFLOP/image",
        "of matrix rate",
        "MB plain",
        "MB",
        "error",
    ]

    def rate(row: dict[str, Any], way: str) -> float | None:
        return row[way]["images_per_s"] if way in row else None

    def ratio(row: dict[str, Any], key: str) -> str | None:
        return row[key] and f"{row[key]:.2f} [{row[f'{key}_least']:.2f}, {row[f'{key}_most']:.2f}]"

    rows = [
        [
            row["name"],
            *(rate(row, way) for way in ("plain", "default", "fast")),
            *(ratio(row, key) for key in ("ratio", "ratio_default")),
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
        f"{result['precision']} and train in {result['loss_precision']}; what is generated and measured is in fp32.",
        "plain: the plain way in float32 proper. plain, TF32: the same as torch is by default, with convolutions of TF32 "
        "on a GPU; a dash on a CPU, which has none. times: how many times faster the package is.",
        "A training step is loss, gradients and optimiser, without reading or augmenting the batch.",
        f"Medians of {result['repeats']} turns [least, most of a turn]; the JSON file has all. Operations of matrix "
        f"products and convolutions, counted. Matrix multiplication: {rates}; the part is of the faster.",
        "Error: distance of the package's result from the plain one, without noise, over the length of the plain one; of a "
        "chain or an attack, the way that its images went. A fault is more than "
        f"{', '.join(f'{most} at {name}' for name, most in ERROR.items())}.",
    )
    return document(f"{study}: speed beside the plain way", [Table("Both in one run", header, rows, notes)])
