"""Samples in bfloat16 beside the same in float32, from a network that has learnt something."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from advebm import config, networks
from advebm.commands.prepare import prepare
from advebm.data import images
from advebm.data.gaussians import Gaussians
from advebm.evaluation.quality import frechet, jackknife
from advebm.methods.base import Context
from advebm.samplers.recipes import SGLD
from advebm.samplers.sgld import Langevin
from advebm.samplers.streams import Streams
from advebm.training import fit


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """Digits' robust_jem after 200 steps, its judge after 100, the validation images, and the class Gaussians."""
    folder = tmp_path_factory.mktemp("digits")
    prepare(folder, study="digits", quiet=True)
    train, validation = (images.load(folder / f"{name}.npz") for name in ("train", "validation"))
    gaussians = Gaussians.fit(train, ridge=2.5e-5)
    entry, nets = config.read("params.yaml", "digits"), []
    for name, steps in (("robust_jem", 200), ("judge", 100)):
        model = config.model(entry, name)
        training = replace(model.training, epochs=steps / (len(train.x) // 64), record_every=steps)
        torch.manual_seed(0)
        net = model.network.build((1, 8, 8), 10)
        context = Context(0, (1, 8, 8), 10, gaussians, "cpu")
        nets.append(fit(model.method, net, train, validation, training, context, log=lambda *given: None))
    return *nets, validation, gaussians


def test_fid_of_the_same_seeds_in_bfloat16_differs_by_less_than_its_error(learnt, monkeypatch):
    monkeypatch.setattr(networks, "has_bf16", lambda device: True)
    net, judge, validation, gaussians = learnt
    chain = Langevin(steps=20, step_size=0.5, noise=0.005, clamp_grad=0.2, clip=True)
    recipe, ids = SGLD(recipe="sgld", start="gaussians", chain=chain, conditional=True), torch.arange(290)
    made, found = {}, {}
    judge.requires_grad_(False)
    real = judge.features(validation.pixels())
    for precision in ("fp32", "bf16"):
        with networks.sampling(networks.accelerated(net, precision)):
            stages = recipe(net, ids % 10, {"gaussians": gaussians.sample}, Streams(0, "sample", ids=ids))
        made[precision] = images.to_bytes(stages["langevin"])
        found[precision] = judge.features(images.Images(made[precision]).pixels())
    start = judge.features(images.Images(images.to_bytes(stages["start"])).pixels())
    fid = {name: frechet(features, real) for name, features in found.items()}
    assert not np.array_equal(made["fp32"], made["bf16"])
    assert fid["fp32"] < frechet(start, real), "the chains improve on where they start"
    assert abs(fid["fp32"] - fid["bf16"]) < jackknife(found["fp32"], real)
