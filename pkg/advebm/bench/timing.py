"""Speed of the package and of the plain implementation: timing of jobs, and their table."""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from advebm import networks
from advebm.bench.jobs import Bench, Job
from advebm.evaluation.result import Result
from advebm.networks.passes import convolving, has_bf16
from advebm.reports.tables import Table, document


@dataclass(kw_only=True)
class Rate:
    """Speed and memory of one implementation."""

    images_per_s: float  # median of the turns
    least: float
    most: float
    memory_mb: float  # peak
    of_matrix_rate: float  # rate of its operations, as a fraction of the matrix rate


@dataclass(kw_only=True)
class Row(Result):
    """The implementations of a job, side by side. `ratio` is how many times faster the package is than the plain
    implementation, `ratio_default` than that with torch's defaults (None if these are the same): from the medians and,
    least and most, from the pairs of each turn."""

    name: str
    images: int
    float32: bool
    error: float  # distance of the package's result from the plain one, relative to the latter's length
    gflop_per_image: float
    plain: Rate
    default: Rate | None = None
    fast: Rate
    ratio: float
    ratio_least: float
    ratio_most: float
    ratio_default: float | None = None
    ratio_default_least: float | None = None
    ratio_default_most: float | None = None

    def json(self) -> dict[str, Any]:
        return {key: value for key, value in super().json().items() if key != "default" or value is not None}


ERROR = {"fp32": 0.05, "tf32": 0.3, "bf16": 0.5}  # largest error allowed: signs flip where a gradient is near 0


def largest_error(result: dict[str, Any], row: Row) -> float:
    """The error that is allowed in a row, by the coarsest precision of the package."""
    return ERROR["fp32"] if row.float32 else max(ERROR[result["precision"]], ERROR[result["loss_precision"]])


def implementations(job: Job, device: torch.device, package: str = "fast") -> dict[str, Callable[[bool], Any]]:
    """A job's implementations by name: `plain` in float32; on a GPU `default`, the same with TF32 convolutions; `fast`,
    the package with training's precision, or in float32 if it generates or measures; package: `fast`, or `eager` without
    graphs."""
    found: dict[str, Callable[[bool], Any]] = {"plain": convolving("fp32")(partial(job.run, "plain"))}
    if has_tf32(device):
        found["default"] = convolving("tf32")(partial(job.run, "default"))
    fast = partial(job.run, package)
    return found | {"fast": convolving("fp32")(fast) if job.float32 else fast}


def effective(precision: str, device: torch.device) -> str:
    """The precision that passes really have on this machine."""
    if precision == "bf16" and has_bf16(device):
        return "bf16"
    return "tf32" if has_tf32(device) and precision != "fp32" else "fp32"


def has_tf32(device: torch.device) -> bool:
    """Whether float32 convolutions are TF32 by default."""
    return device.type == "cuda"


def measured(job: Job, images: int, repeats: int, rates: dict[str, float], device: torch.device) -> Row:
    """The row of a job: its implementations take turns."""
    runs = implementations(job, device)
    fast, plain = runs["fast"](True), runs["plain"](True)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    memory, flops = {}, {}
    for name, run in implementations(job, device, "eager").items():
        memory[name], flops[name] = memory_and_flops(partial(run, False), device)
        runs[name](False)  # to warm up
    for _ in range(repeats):
        for name, run in runs.items():
            seconds[name].append(timed(partial(run, False), device))
    found: dict[str, Any] = {}  # Rates by implementation, then the ratios
    for name, times in seconds.items():
        rate = [images / t for t in times]
        found[name] = Rate(
            images_per_s=statistics.median(rate),
            least=min(rate),
            most=max(rate),
            memory_mb=memory[name],
            of_matrix_rate=flops[name] / statistics.median(times) / max(rates.values()),
        )
    for key, slow in {"ratio": "plain", "ratio_default": "default"}.items():
        if slow in runs:
            pairs = [t / fast for t, fast in zip(seconds[slow], seconds["fast"], strict=True)]
            found[key] = found["fast"].images_per_s / found[slow].images_per_s
            found |= {f"{key}_least": min(pairs), f"{key}_most": max(pairs)}
    return Row(
        name=job.name,
        images=images,
        float32=job.float32,
        error=((fast - plain).norm() / plain.norm()).item(),
        gflop_per_image=flops["fast"] / images / 1e9,
        **found,
    )


def timed(run: Callable[[], Any], device: torch.device) -> float:
    """Seconds that it takes, with all that it starts on a GPU."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    begun = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - begun


def matrix_rates(device: torch.device) -> dict[str, float]:
    """Operations a second of a product of two square matrices, the best of five, by precision."""
    gpu = device.type == "cuda"
    n = 8192 if gpu else 1536
    rates: dict[str, float] = {}
    for name in ("float32", "tf32", "bfloat16") if gpu else ("float32", "bfloat16"):
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        a, b = torch.randn(2, n, n, device=device).to(torch.bfloat16 if name == "bfloat16" else torch.float32)
        for _ in range(5):
            rates[name] = max(rates.get(name, 0.0), 2 * n**3 / timed(partial(torch.matmul, a, b), device))
        torch.backends.cuda.matmul.allow_tf32 = before
    return rates


def memory_and_flops(run: Callable[[], Any], device: torch.device) -> tuple[float, int]:
    """Peak memory in MB of the tensors that it allocates, and the operations of its matrix products and convolutions."""
    counter, tracker = FlopCounterMode(display=False), nullcontext()
    tracker.parents = {"Global"}  # type: ignore[attr-defined]  # tracking modules fails if a gradient is of the input
    counter.mod_tracker = tracker  # type: ignore[assignment]
    with counter:
        peak = peak_on_gpu(run) if device.type == "cuda" else peak_on_cpu(run)
    return peak / 2**20, counter.get_total_flops()


def gflop_per_image(entry: dict[str, Any], method: str, root: Path) -> float:
    """The operations of matrix products and convolutions in a training step of a study's method, in 10^9 for each image.
    entry: the study's in params.yaml; root: the data root, which may tell the size of the images."""
    device, images = networks.device(), 8
    step = Bench(entry, method, images, 1, device, root).step(method)
    step.run("eager", False)  # spectral norms and buffers are then as in the middle of a training
    return memory_and_flops(partial(step.run, "eager", False), device)[1] / images / 1e9


def peak_on_gpu(run: Callable[[], Any]) -> int:
    """Peak of the bytes allocated while it runs, without those allocated before."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return torch.cuda.max_memory_allocated() - before


def peak_on_cpu(run: Callable[[], Any]) -> int:
    """Like `peak_on_gpu`, from the trace of torch's profiler."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # otherwise the profiler logs its start and stop
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(trace))
        events = [event for event in json.loads(trace.read_text())["traceEvents"] if event["name"] == "[memory]"]
    first, *_ = changes = [event["args"] for event in sorted(events, key=itemgetter("ts"))]
    return max(change["Total Allocated"] for change in changes) - (first["Total Allocated"] - first["Bytes"])


def markdown(study: str, result: dict[str, Any], found: list[Row]) -> str:
    """The table of the rows; result: how they were measured."""
    rates = ["images/s plain", "plain, TF32", "package", "times plain", "times TF32"]
    header = ["what", *rates, "GFLOP/image", "of matrix rate", "MB plain", "MB", "error"]

    rows = []
    for row in found:
        speeds = [rate and rate.images_per_s for rate in (row.plain, row.default, row.fast)]
        ratios = [
            ratio and f"{ratio:.2f} [{least:.2f}, {most:.2f}]"
            for ratio, least, most in (
                (row.ratio, row.ratio_least, row.ratio_most),
                (row.ratio_default, row.ratio_default_least, row.ratio_default_most),
            )
        ]
        rows.append([row.name, *speeds, *ratios, row.gflop_per_image, row.fast.of_matrix_rate])
        rows[-1] += [row.plain.memory_mb, row.fast.memory_mb, row.error]
    network = ", ".join(f"{key} {value}" for key, value in result["network"].items())
    matrix = ", ".join(f"{name} {rate / 1e9:.4g} GFLOP/s" for name, rate in result["matrix_flops"].items())
    notes = (
        f"{result['device']}, {result['threads']} threads; network: {network}; batches of {result['batch']} images "
        f"{result['shape']}; chains and attacks of {result['steps']} steps; the package's gradients, chains and training "
        f"steps sample in {result['precision']} and train in {result['loss_precision']}; what is generated and measured is "
        "in fp32.",
        "plain: the plain implementation in full float32. plain, TF32: the same with torch's defaults, which use TF32 in "
        "convolutions on a GPU; a dash on a CPU, which has none. times: how many times faster the package is.",
        "A training step is loss, gradients and optimiser, without reading or augmenting the batch.",
        f"Medians of {result['repeats']} turns [least, most of a turn]; the JSON file has all numbers. Operations of "
        f"matrix products and convolutions are counted. Matrix multiplication: {matrix}; the fraction is of the faster.",
        "Error: distance of the package's result from the plain one, without noise, relative to the length of the plain "
        "one; for a chain or an attack, of the displacement of its images. A fault is more than "
        f"{', '.join(f'{most} at {name}' for name, most in ERROR.items())}.",
    )
    return document(
        f"{study}: speed relative to the plain implementation", [Table("Both in one process", header, rows, notes)]
    )
