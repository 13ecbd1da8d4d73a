"""Parts of a long measurement, which a command can save as they are made, so that it resumes after an interruption."""

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

from advebm.runtime import ranks

SEED = 20220717  # of all measurements and samples, independent of the training's
BATCH = 500  # images at a time, unless a measurement has its own number; the last digits depend on it

Made = TypeVar("Made", Tensor, dict[str, Tensor])
Part = Callable[[str, Callable[[], Made]], Made]  # the part of that name, made unless it was saved


def anew(name: str, make: Callable[[], Made]) -> Made:
    """Make the part without saving it."""
    return make()


def gathered(makers: dict[str, Callable[[], Made]], part: Part = anew, progress: Callable = iter) -> list[Made]:
    """All parts in order, from {name: maker}, distributed over the ranks; makers return tensors on the CPU."""
    return ranks.spread(lambda name: part(name, makers[name]), list(makers), progress)
