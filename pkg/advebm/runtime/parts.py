"""Parts of a long measurement, which a command may keep as they are made, so that an interrupted one goes on."""

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

from advebm.runtime import ranks

SEED = 20220717  # of every measurement and of samples, whatever the training's
BATCH = 500  # images at a time, where a measurement has no number of its own; the last digits hang on it

Made = TypeVar("Made", Tensor, dict[str, Tensor])
Part = Callable[[str, Callable[[], Made]], Made]  # the part of that name, made unless it was kept


def anew(name: str, make: Callable[[], Made]) -> Made:
    """Keep nothing."""
    return make()


def gathered(makers: dict[str, Callable[[], Made]], part: Part = anew, progress: Callable = iter) -> list[Made]:
    """Every part by its name and maker, in order, dealt out to the ranks; makers give tensors on the CPU."""
    return ranks.spread(lambda name: part(name, makers[name]), list(makers), progress)
