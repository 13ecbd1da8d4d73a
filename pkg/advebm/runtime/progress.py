"""Progress bars: what is done, the rate, and the time left."""

import os
import sys
from collections.abc import Callable, Collection, Iterator
from typing import TypeVar

T = TypeVar("T")


def bar(name: str, quiet: bool = False) -> Callable[[Collection[T]], Iterator[T]]:
    """A wrapper of something iterable; a range begins where it does. Where stderr is no terminal a line is written every 15
    seconds at most."""
    from tqdm import tqdm

    live = sys.stderr.isatty()

    def begun(items: Collection[T]) -> dict[str, int]:
        done = items.start // items.step if isinstance(items, range) else 0
        return {"initial": done, "total": done + len(items)} if done else {}

    return lambda items: iter(
        tqdm(
            items,
            desc=name,
            **begun(items),
            disable=quiet or os.environ.get("RANK", "0") != "0",  # of several processes the leader tells
            mininterval=0.1 if live else 15,
            maxinterval=15,
            dynamic_ncols=live,
            leave=not quiet,
        )
    )
