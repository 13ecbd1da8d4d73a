"""Progress bars: steps done, rate and time left."""

import os
import sys
from collections.abc import Callable, Collection, Iterator
from typing import TypeVar

T = TypeVar("T")


def bar(name: str, quiet: bool = False) -> Callable[[Collection[T]], Iterator[T]]:
    """A function that wraps a collection in a progress bar; a range starts at its own start. If stderr is no terminal, a
    line is written at most every 15 seconds."""
    from tqdm import tqdm

    live = sys.stderr.isatty()

    def done(items: Collection[T]) -> int:
        return items.start // items.step if isinstance(items, range) else 0

    return lambda items: iter(
        tqdm(
            items,
            desc=name,
            initial=done(items),
            total=done(items) + len(items),
            disable=quiet or os.environ.get("RANK", "0") != "0",  # only the leader shows it
            mininterval=0.1 if live else 15,
            maxinterval=15,
            dynamic_ncols=live,
            leave=not quiet,
        )
    )
