"""SIGINT and SIGTERM as an exception. Imports no torch, so that the console command can catch it."""

import os
import re
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread, Timer
from types import FrameType
from typing import Any


class Stopped(BaseException):
    """SIGINT or SIGTERM was received; `code` is the exit code, 128 plus the signal's number."""

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}; run the same command to resume")
        self.code = 128 + number


@contextmanager
def raised() -> Iterator[None]:
    """Within this block SIGINT and SIGTERM raise Stopped."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    def resend(unraisable: Any) -> None:  # Python drops an exception raised in a finalizer: send the signal again
        if isinstance(unraisable.exc_value, Stopped):
            Timer(0.01, os.kill, (os.getpid(), unraisable.exc_value.code - 128)).start()
        else:
            hook(unraisable)

    hook, sys.unraisablehook = sys.unraisablehook, resend
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = hook


runner: int | None = None  # the process that runs this stage, such as DVC, if `end_with` found it


def end_with(script: str) -> None:
    """From here on this process gets SIGTERM once the process that runs it ends, such as DVC, also if a shell is between
    them: parents that have the script, which this process runs, on their command line are shells or launchers, whose own
    parents count as well. Where the system is not Linux nothing happens."""
    global runner
    if sys.platform != "linux":
        return
    alive, pid, held = select.poll(), os.getppid(), True
    with suppress(OSError):
        while held and pid:
            alive.register(os.pidfd_open(pid), select.POLLIN)
            runner = pid
            held = script.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
            pid = int(re.findall(r"^PPid:\s*(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M)[0])
        Thread(target=_watch, args=(alive,), daemon=True).start()


def _watch(alive: "select.poll") -> None:
    alive.poll()
    os.kill(os.getpid(), signal.SIGTERM)
