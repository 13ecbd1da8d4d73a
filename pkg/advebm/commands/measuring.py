"""What the commands that measure a model share."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advebm import config
from advebm.data.prepared import about

if TYPE_CHECKING:
    from advebm.networks import Network
    from advebm.runtime.state import State
    from advebm.runtime.tracking import Run


def network(model: Path, data: Path) -> "Network":
    """The model, in evaluation mode. Raises ValueError where it is not for images of the prepared data's shape."""
    from advebm import networks

    return networks.load(model, networks.device(), shape=about(data)["shape"])[0]


def measure(evaluate: Callable[..., dict[str, Any]], spec: Any, model: Path, data: Path, **more: Any) -> dict[str, Any]:
    """What `evaluate` finds of the model on the images of the spec's split."""
    from advebm.data import images
    from advebm.runtime.parts import SEED

    inside = images.load(data / f"{spec.split}.npz")
    return evaluate(network(model, data), inside, spec, seed=SEED, **more)


@contextmanager
def resumable(
    stage: str, file: Path, entry: dict[str, Any], method: str, model: Path, data: Path, *more: str
) -> Iterator["State"]:
    """What the stage that writes `file` goes on from, if it is interrupted; more: whatever else its result depends on."""
    from advebm.data import images
    from advebm.runtime.state import opened

    key = [method, config.stage_specs(entry, method)[stage], images.digest(model), about(data)["sha256"], *more]
    with opened(stage, file, key) as state:
        yield state


@contextmanager
def keep(
    stage: str, file: Path, numbers: dict[str, Any], entry: dict[str, Any], study: str, method: str, model: Path
) -> Iterator["Run"]:
    """Write what a stage measured, and open the model's run to log it in. entry: the study, as `config.read` gives it."""
    from advebm.data import images
    from advebm.runtime import tracking

    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(numbers, indent=1) + "\n")
    spec = config.stage_specs(entry, method)[stage]
    with tracking.run(stage=stage, study=study, method=method, checkpoint=images.digest(model), spec=spec) as run:
        yield run
