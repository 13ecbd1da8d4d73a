"""Queued experiments as jobs of a scheduler."""

import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

from typer import Argument

from advebm.runtime import project
from advebm.runtime.experiments import repository
from advebm.runtime.signals import Stopped

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.repo.experiments.queue.base import QueueEntry

JOBS = Path("state", "jobs")  # logs, by stages/job.sh, and locks


def launch(
    command: Annotated[str, Argument(help="submits a script with an argument: 'sbatch --gres gpu:1 stages/job.sh'")],
    names: Annotated[list[str] | None, Argument(help="the --name of queued experiments [default: all]")] = None,
) -> None:
    """Submit experiments that `dvc exp run --queue` has queued, each as a job: run the command with its name added.

    All machines must see this folder, by the same path. An experiment stays in DVC's queue until its job has completed and
    can be submitted again; twice does no harm. Results come as with `dvc queue start`.
    """
    words = shlex.split(command)
    if not words or not shutil.which(words[0]):
        raise ValueError(f"{command!r}: no such command; for example 'sbatch stages/job.sh' or 'bash stages/job.sh'")
    with repository() as repo:
        entries = queued(repo)
    if not entries:
        raise ValueError("nothing is queued; `dvc exp run --queue --name NAME -S ...` queues experiments")
    called = {entry: {entry, entry.rpartition("-")[0]} for entry in entries}  # a grid numbers them
    if unknown := [name for name in names or [] if name not in set().union(*called.values())]:
        raise ValueError(f"{', '.join(unknown)}: no such experiment is queued; there are {', '.join(entries)}")
    wanted = [entry for entry in entries if not names or called[entry] & set(names)]
    JOBS.mkdir(parents=True, exist_ok=True)
    for name in wanted:
        print(f"{name}: {command} {name}", flush=True)
        done = subprocess.run([*words, name], env=os.environ | {"SBATCH_JOB_NAME": name})
        if done.returncode:
            raise OSError(f"{name}: {words[0]} failed with exit code {done.returncode}, see above; it is still queued")


def job(name: Annotated[str, Argument(help="of a queued experiment, see `dvc queue status`")]) -> None:
    """Run one queued experiment here, in a copy of the tree, and take it off the queue once it has completed.

    After an interruption the same command resumes. On SIGTERM the stage saves its state first.
    """
    from dvc.exceptions import DvcException

    with repository() as repo, project.locked(JOBS / name):
        if name not in (entries := queued(repo)):
            raise ValueError(f"{name}: no such experiment is queued; there are {', '.join(entries) or 'none'}")
        received: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, frame: pass_on(received, number, frame))
        try:
            reproduce(repo, entries[name])
        except DvcException as error:
            if received:
                raise Stopped(received[0]) from None
            raise OSError(f"{name}: {error}; it is still queued") from error
        remove(repo, name)
    print(f"{name} is complete: dvc exp show, advebm adopt {name}")


def queued(repo: "Repo") -> dict[str, "QueueEntry"]:
    """The experiments in DVC's queue, by name, oldest first."""
    return {entry.name: entry for entry in repo.experiments.celery_queue.iter_queued()}


def reproduce(repo: "Repo", entry: "QueueEntry") -> None:
    """Run an experiment as `dvc exp run --temp` does, but leave it in the queue: DVC takes one off before it starts it."""
    from dvc.repo.experiments.executor.local import TempDirExecutor
    from dvc.repo.experiments.stash import ExpStashEntry

    queue, folder = repo.experiments.tempdir_queue, Path(repo.tmp_dir or "", "exps", "jobs", entry.name or "")
    stashed = ExpStashEntry(None, entry.head_rev or "", entry.baseline_rev, entry.branch, entry.name)
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier job that was killed
    try:
        executor = TempDirExecutor.from_stash_entry(repo, stashed, wdir=str(folder))
        executor.init_git(
            repo, repo.scm, entry.stash_rev, stashed, queue.get_infofile_path(entry.stash_rev), branch=entry.branch
        )
        executor.init_cache(repo, entry.stash_rev)
        queue._reproduce_entry(entry, executor)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove(repo: "Repo", name: str) -> None:
    """Take an experiment off the queue, which other processes may be changing."""
    from dvc.lock import LockError
    from dvc.repo.experiments.refs import CELERY_STASH
    from dvc.repo.experiments.utils import get_exp_rwlock

    for tries in reversed(range(180)):
        try:
            with get_exp_rwlock(repo, writes=["workspace", CELERY_STASH]):
                repo.experiments.celery_queue.remove([name])
            return
        except LockError:
            if not tries:
                raise
            time.sleep(1)


def pass_on(received: list[int], number: int, frame: FrameType | None) -> None:
    """Send a signal to the running stage, whose end then ends DVC. Between two stages, end at once."""
    import psutil

    received.append(number)
    children = psutil.Process().children(recursive=True)
    for child in children:
        child.send_signal(number)
    if not children:
        raise Stopped(number)
