"""Energy-based models trained with adversarial training. `advebm.load(path)` is a trained model, see docs/api.md."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from advebm.api import Model, load

__all__ = ["Model", "load"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'advebm' has no attribute {name!r}")
    from advebm import api  # imports torch, which a command may not need

    return getattr(api, name)
