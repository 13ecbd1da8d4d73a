import numpy as np
import pytest
import torch
from torch import nn

from advebm.data.images import Images
from advebm.networks.wrn import WideResNet
from advebm.samplers.streams import Streams

torch.set_num_threads(1)
LONGEST = ["test_pipeline", "test_away", "test_cli", "test_reliability", "test_evaluation", "test_ranks"]


def pytest_collection_modifyitems(items):
    """Start the slowest files first, so that they run in parallel and the short ones fill the gaps."""
    items.sort(key=lambda item: LONGEST.index(item.module.__name__) if item.module.__name__ in LONGEST else len(LONGEST))


class Small(nn.Module):
    """A smooth network with stem and body, small enough to check by hand; float64."""

    def __init__(self, classes: int = 3):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1))
        self.stem.affine = True
        self.body = nn.Sequential(nn.SiLU(), nn.Flatten(), nn.Linear(4 * 16, classes))
        self.double()

    def forward(self, x):
        return self.body(self.stem(x))


@pytest.fixture
def small():
    torch.manual_seed(0)
    return Small()


@pytest.fixture
def binary():
    torch.manual_seed(6)
    return Small(classes=1)


@pytest.fixture
def wrn():
    torch.manual_seed(0)
    return WideResNet(depth=10, width=1).build((1, 8, 8), 3)


@pytest.fixture
def streams():
    return lambda count=8, seed=0: Streams(seed, "test", ids=torch.arange(count))


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return Images(rng.integers(0, 256, (60, 4, 4, 1), dtype=np.uint8), np.arange(60) % 3)
