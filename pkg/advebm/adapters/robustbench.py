"""RobustBench's model zoo (Croce et al. 2021), which finds models by the names that timm knows."""

from pathlib import Path
from typing import Any

from timm.models import register_model

from advebm import api
from advebm.networks import Network


def register(path: Path | str, name: str, *, dataset: str = "cifar10", threat_model: str = "Linf") -> None:
    """Hereafter `robustbench.load_model(name, dataset=dataset, threat_model=threat_model)` is the network of a model file,
    which is read then. It raises ValueError for a model that has not the data set's classes."""

    def entry(num_classes: int, **_: Any) -> Network:
        net = api.load(path, device="cpu").net
        if net.outputs != num_classes:
            raise ValueError(f"{path}: has {net.outputs} outputs, but {dataset} has {num_classes} classes")
        return net

    entry.__name__ = f"{name}_{dataset}_{threat_model}".lower().replace("-", "_")  # as robustbench.load_model asks for it
    register_model(entry)
