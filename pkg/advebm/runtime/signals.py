"""SIGINT and SIGTERM as an exception. Imports no torch, so that the console command can catch it."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
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
