"""What takes long: `make soak`."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from advebm import config
from advebm.commands.gaussians import gaussians
from advebm.commands.prepare import about, prepare
from advebm.data import images
from advebm.data.gaussians import Gaussians
from advebm.methods import METHODS
from advebm.methods.base import Context
from advebm.training import fit

pytestmark = pytest.mark.soak
PARAMS = Path("params.yaml")
STEPS, BATCH, CHAIN = 20, 2, 1  # chains and attacks are cut to one step: networks of this size are slow without a GPU


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory):
    """Real CIFAR-10, prepared, with its class Gaussians."""
    folder = tmp_path_factory.mktemp("cifar10")
    prepare(folder, study="cifar10-smoke", params=PARAMS)  # the same images as cifar10, fewer out-distribution ones
    gaussians(folder, folder / "gaussians.safetensors", study="cifar10", params=PARAMS)
    sets = {name: images.load(folder / f"{name}.npz") for name in ("train", "validation", "outliers")}
    return about(folder), sets, Gaussians.load(folder / "gaussians.safetensors")


@pytest.mark.parametrize("name", METHODS)
def test_twenty_steps_on_cifar10_with_the_papers_network(cifar10, name):
    described, sets, start = cifar10
    entry = config.read(PARAMS, "cifar10", name)
    for part, key in (
        *((part, "steps") for part in ("attack", "attack_out", "ascent", "descent", "sampler")),
        ("sampler", "outer"),
    ):
        if key in entry["models"][name].get(part, {}):
            entry["models"][name][part][key] = min(CHAIN, entry["models"][name][part][key])
    model = config.model(entry, name)
    epochs = STEPS / (len(sets["train"].x) // BATCH)
    training = replace(model.training, batch=BATCH, epochs=epochs, record_every=STEPS)
    torch.manual_seed(0)
    net = model.network.build(described["shape"], model.method.outputs(described["classes"]))
    before = [parameter.clone() for parameter in net.parameters()]
    records = []
    fit(
        model.method,
        net,
        sets["train"],
        sets["validation"][:20],
        training,
        Context(0, tuple(described["shape"]), described["classes"], start, "cpu"),
        log=lambda step, record: records.append((step, record)),
        outliers=sets["outliers"] if model.method.outliers else None,
    )
    [(step, record)] = records
    print(name, {key: float(f"{value:.4g}") for key, value in record.items()})
    assert step == STEPS and all(math.isfinite(value) for value in record.values())
    assert any(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
