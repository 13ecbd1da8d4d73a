"""Expensive work beside the actual work: saving states, drawing curves, packing results."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

SHARE = 20  # such work is due after this many times the duration of the last: at most 5% of the time


class Seldom:
    """One kind of such work. It is due at first; `timed` measures each time it is done."""

    def __init__(self) -> None:
        self.cost, self.ended = 0.0, 0.0  # its last duration in seconds, and when it ended

    def due(self) -> bool:
        return time.monotonic() - self.ended >= SHARE * self.cost

    @contextmanager
    def timed(self) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.ended = time.monotonic()
        self.cost = self.ended - begun
