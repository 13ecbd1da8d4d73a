"""Speed of the package and of the plain implementation: timing of jobs, and their table."""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from advebm.bench.jobs import Job
from advebm.networks.passes import convolving, has_bf16
from advebm.reports.tables import Table, document

ERROR = {"fp32": 0.05, "tf32": 0.3, "bf16": 0.5}  # largest error allowed: signs flip where a gradient is near 0


def largest_error(result: dict[str, Any], row: dict[str, Any]) -> float:
    """The error that is allowed in a row, by the coarsest precision of the package."""
    return ERROR["fp32"] if row["float32"] else max(ERROR[result["precision"]], ERROR[result["loss_precision"]])


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


def measured(job: Job, images: int, repeats: int, rates: dict[str, float], device: torch.device) -> dict[str, Any]:
    """For each implementation, images a second (median, least, most), peak memory, and the rate of its operations as a
    fraction of the matrix rate. `error` is the distance of the package's result from the plain one, relative to the
    latter's length.

    `ratio` is how many times faster the package is than the plain implementation, `ratio_default` than that with torch's
    defaults (None if these are the same): from the medians and, least and most, from the pairs of each turn.
    """
    runs = implementations(job, device)
    fast, plain = runs["fast"](True), runs["plain"](True)
    found: dict[str, Any] = {"error": ((fast - plain).norm() / plain.norm()).item()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    memory, flops = {}, {}
    for name, run in implementations(job, device, "eager").items():
        memory[name], flops[name] = memory_and_flops(partial(run, False), device)
        runs[name](False)  # to warm up
    for _ in range(repeats):
        for name, run in runs.items():
            seconds[name].append(timed(partial(run, False), device))
    for name, times in seconds.items():
        rate = [images / t for t in times]
        found[name] = {"images_per_s": statistics.median(rate), "least": min(rate), "most": max(rate)}
        part = flops[name] / statistics.median(times) / max(rates.values())
        found[name] |= {"memory_mb": memory[name], "of_matrix_rate": part}
    found["gflop_per_image"] = flops["fast"] / images / 1e9
    for key, slow in {"ratio": "plain", "ratio_default": "default"}.items():
        pairs = [t / fast for t, fast in zip(seconds[slow], seconds["fast"], strict=True)] if slow in runs else []
        found[key] = found["fast"]["images_per_s"] / found[slow]["images_per_s"] if pairs else None
        found |= {f"{key}_least": min(pairs, default=None), f"{key}_most": max(pairs, default=None)}
    return found


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


def markdown(study: str, result: dict[str, Any]) -> str:
    rates = ["images/s plain", "plain, TF32", "package", "times plain", "times TF32"]
    header = ["what", *rates, "GFLOP/image", "of matrix rate", "MB plain", "MB", "error"]

    rows = []
    for row in result["rows"]:
        speeds = [row[name]["images_per_s"] if name in row else None for name in ("plain", "default", "fast")]
        ratios = [
            row[key] and f"{row[key]:.2f} [{row[f'{key}_least']:.2f}, {row[f'{key}_most']:.2f}]"
            for key in ("ratio", "ratio_default")
        ]
        plain, fast = row["plain"], row["fast"]
        rows.append([row["name"], *speeds, *ratios, row["gflop_per_image"], fast["of_matrix_rate"]])
        rows[-1] += [plain["memory_mb"], fast["memory_mb"], row["error"]]
    network = ", ".join(f"{key} {value}" for key, value in result["network"].items())
    matrix = ", ".join(f"{name} {rate / 1e9:.4g} GFLOP/s" for name, rate in result["matrix_flops"].items())
    notes = (
        f"{result['device']}, {result['threads']} threads; network: {network}; batches of {result['batch']}; chains and "
        f"attacks of {result['steps']} steps; the package's gradients, chains and training steps sample in "
        f"{result['precision']} and train in {result['loss_precision']}; what is generated and measured is in fp32.",
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
