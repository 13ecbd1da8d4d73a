"""Processes that share a stage, started by torchrun: each is a rank, and rank 0 is the leader, which writes.

Work is shared by image: the batch of a step, the replay buffer and the parts of a measurement do not depend on the number
of ranks, and each rank has its share of them. With a single process, every function here returns its input.
"""

import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")
M = TypeVar("M")
PATIENCE = timedelta(days=7)  # with a slower rank; one that ends is noticed at once
SET_BY_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_leader_only = False


def size() -> int:
    return dist.get_world_size() if dist.is_initialized() and not _leader_only else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() and not _leader_only else 0


@contextmanager
def joined() -> Iterator[None]:
    """Within this block the process is one of the ranks that torchrun started, if it did. Raises ConnectionError if
    another rank ended early, ValueError if there are fewer GPUs than ranks on this machine, or if RANK alone is set."""
    if "RANK" not in os.environ:
        yield
        return
    if missing := [name for name in SET_BY_TORCHRUN if not os.environ.get(name)]:
        raise ValueError(
            f"RANK is set, but {', '.join(missing)} not: start the processes by torchrun, set all of them, or unset RANK"
        )
    gpus, here = torch.cuda.device_count(), int(os.environ["LOCAL_WORLD_SIZE"])
    if gpus:
        if here > gpus:
            raise ValueError(f"{here} processes on this machine need as many GPUs, but there are {gpus}")
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=PATIENCE)
    try:
        yield
        barrier()
    except RuntimeError as error:  # leave the group open: it cannot be closed without the others
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise ConnectionError("another process that shares this work has ended") from None
        raise
    dist.destroy_process_group()


def leader_only() -> None:
    """From here on only the leader works, and the other ranks end: for work that cannot be shared."""
    global _leader_only
    if rank():
        raise SystemExit(0)
    _leader_only = True


def barrier() -> None:
    if size() > 1:
        dist.barrier()


def launch(processes: int, script: Sequence[str]) -> int:
    """Run a Python script with its arguments in several processes on this machine, as torchrun does. Returns the exit
    code, the largest if some failed. Raises ChildProcessError if one was killed; the others are ended then."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in ("torch.distributed.elastic", "torch.distributed.launcher"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # they print tracebacks
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // processes)))
    local: dict[str, Any] = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "local_addr": "localhost"}
    config = LaunchConfig(1, 1, processes, run_id=str(os.getpid()), max_restarts=0, **local)
    try:
        elastic_launch(config, sys.executable)(*script)
    except ChildFailedError as error:
        codes = {number: failure.exitcode for number, failure in error.failures.items()}
        ended = (-signal.SIGTERM, 128 + signal.SIGTERM)  # by the launcher, after another one had failed
        codes = {number: code for number, code in codes.items() if code not in ended} or codes
        killed = [number for number, code in codes.items() if code < 0]
        if not killed:
            return max(codes.values())
        name = signal.Signals(-codes[killed[0]]).name
        raise ChildProcessError(
            f"process {killed[0]} of {processes} was killed by {name}; run the same command to resume"
        ) from None
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


def ids(count: int, device: torch.device | str = "cpu") -> Tensor:
    """Indices (count,) of this rank's images among `size() * count`."""
    return torch.arange(count, device=device) + rank() * count


def share(x: Tensor) -> Tensor:
    """This rank's rows of x (N, ...), which all ranks have. Raises ValueError if they cannot be shared evenly."""
    if len(x) % size():
        raise ValueError(f"{size()} processes cannot share {len(x)} images evenly; take a multiple")
    return x[ids(len(x) // size(), x.device)] if size() > 1 else x


def gather(x: Tensor) -> Tensor:
    """The rows of all ranks (size() * N, ...), in the order of the ranks."""
    if size() == 1:
        return x
    rows = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(size())]
    dist.all_gather(rows, x.contiguous())
    return torch.cat(rows)


def total(x: Tensor) -> Tensor:
    """The sum over the ranks."""
    if size() > 1:
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
    return x


def mean(numbers: dict[str, float]) -> dict[str, float]:
    """The mean of each number over the ranks."""
    if size() == 1:
        return numbers
    values = total(torch.tensor(list(numbers.values()), dtype=torch.float64)) / size()
    return dict(zip(numbers, values.tolist(), strict=True))


def from_leader(value: T) -> T:
    """The leader's value."""
    if size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def spread(f: Callable[[T], M], parts: Sequence[T], progress: Callable = iter) -> list[M]:
    """[f(part) for part in parts], distributed over the ranks and returned on all; tensors must be on the CPU."""
    made = [f(part) for part in progress(parts[rank() :: size()])]
    if size() == 1:
        return made
    boxes: list[list[M]] = [[]] * size()
    dist.all_gather_object(boxes, made)
    return [boxes[i % size()][i // size()] for i in range(len(parts))]


def parallel(module: nn.Module) -> nn.Module:
    """The module with gradients averaged over the ranks, and batch norm by the statistics of all ranks' images."""
    if size() == 1:
        return module
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")  # for images of one channel
    here = [torch.cuda.current_device()] if next(module.parameters()).is_cuda else None
    return nn.parallel.DistributedDataParallel(synchronised(module), device_ids=here, forward_sync_buffers=False)


def synchronised(module: nn.Module) -> nn.Module:
    """The module with a `BatchNorm` in place of each nn.BatchNorm2d, with the same parameters and buffers, as
    nn.SyncBatchNorm.convert_sync_batchnorm does."""
    for name, child in module.named_children():
        setattr(module, name, synchronised(child))
    if type(module) is not nn.BatchNorm2d:
        return module
    own = BatchNorm(module.num_features, module.eps, module.momentum).train(module.training)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        setattr(own, name, tensor)
    return own


class BatchNorm(nn.BatchNorm2d):
    """Like nn.SyncBatchNorm, but also on CPUs, and with second derivatives."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        dtype, x = x.dtype, x.to(self.weight.dtype)  # bfloat16 has statistics in float32
        n = x.numel() / x.shape[1] * size()
        mean = Total.apply(x.sum((0, 2, 3))) / n
        centred = x - mean[:, None, None]
        var = Total.apply(centred.square().sum((0, 2, 3))) / n
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * n / (n - 1), self.momentum)
        scale = self.weight * (var + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(dtype)


class Total(torch.autograd.Function):
    """The sum over the ranks; its gradient is the sum of theirs."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return total(x)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return Total.apply(gradient)
