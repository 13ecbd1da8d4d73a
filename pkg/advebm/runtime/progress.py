"""Progress bars: steps done, rate and time left."""

import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from types import MappingProxyType
from typing import TypeVar

T = TypeVar("T")


def bar(
    name: str, quiet: bool = False, values: Mapping[str, str] = MappingProxyType({})
) -> Callable[[Collection[T]], Iterator[T]]:
    """A function that wraps a collection in a progress bar; a range starts at its own start. The bar shows `values`, which
    may change meanwhile. If stderr is no terminal, a line is written at most every 15 seconds."""
    from tqdm import tqdm

    live = sys.stderr.isatty()

    def done(items: Collection[T]) -> int:
        return items.start // items.step if isinstance(items, range) else 0

    def shown(items: Collection[T]) -> Iterator[T]:
        with tqdm(
            items,
            desc=name,
            initial=done(items),
            total=done(items) + len(items),
            disable=quiet or os.environ.get("RANK", "0") != "0",  # only the leader shows it
            mininterval=0.1 if live else 15,
            maxinterval=15,
            dynamic_ncols=live,
            leave=not quiet,
        ) as steps:
            for item in steps:
                yield item
                steps.set_postfix_str(", ".join(f"{word} {value}" for word, value in values.items()), refresh=False)

    return shown
