"""What only a GPU can show: chains and attacks as CUDA graphs, steps that never wait for it. Skipped without one."""

import json
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from advebm import cli, config
from advebm.api import Model
from advebm.data.batches import Batches
from advebm.data.gaussians import Gaussians
from advebm.data.images import Images
from advebm.energy import grad, marginal
from advebm.methods import METHODS
from advebm.methods.base import Context
from advebm.networks.passes import Passes
from advebm.networks.resnet import ResNet
from advebm.networks.wrn import WideResNet
from advebm.runtime.state import Good, State
from advebm.samplers.buffer import Replay
from advebm.training import SGD, Adam, built, fit

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SPECS = {norm: WideResNet(depth=10, width=1, norm=norm) for norm in ("batch", "none", "group")}
SPECS |= {"spectral": WideResNet(depth=10, width=1, spectral=True), "frozen": ResNet(kind="resnet", norm="frozen")}
FLOWS = {"glow", "residual_flow"}  # normflows' code waits for the device


def net(kind="batch"):
    torch.manual_seed(0)
    return SPECS[kind].build((3, 32, 32), 10).cuda()


def slope(own, x, passes):
    with passes.sampling(own) as f:
        return grad(marginal(f), x)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("kind", SPECS)
def test_replays_give_the_gradient_of_the_weights_as_they_are(kind, precision):
    own, passes = net(kind), Passes.on("cuda", precision)
    for count in (8, 16, 8, 8):
        x = torch.rand(count, 3, 32, 32, device="cuda")
        exact = slope(own, x, Passes(precision))
        assert (slope(own, x, passes) - exact).norm() < (1e-2 if precision == "bf16" else 1e-3) * exact.norm()
        with torch.no_grad():
            for weight in own.parameters():
                weight.mul_(1.1)
    assert len(passes.recorded.graphs) == 2
    assert all(passes.recorded.graphs.values())
    assert all(weight.requires_grad for weight in own.parameters())


def test_what_cannot_be_recorded_runs_all_the_same():
    """In a separate process: a failed recording may leave torch's allocator in a state that breaks the next recording."""
    subprocess.run([sys.executable, "-c", "import test_gpu; test_gpu.unrecorded()"], cwd=Path(__file__).parent, check=True)


def unrecorded():
    class Waits(nn.Module):
        def forward(self, h):
            return h * float(h.sum() > 0)

    own, passes, stream = net(), Passes.on("cuda"), torch.cuda.current_stream()
    own.trunk.insert(0, Waits())
    x = torch.rand(4, 3, 32, 32, device="cuda")
    found = slope(own, x, passes)
    assert list(passes.recorded.graphs.values()) == [None] and torch.cuda.current_stream() == stream
    torch.testing.assert_close(found, slope(own, x, Passes()))


def setting(name, count):
    """The method as in the study tiny, `count` noise images, as many outliers, and its context on the GPU."""
    rng = np.random.default_rng(0)
    x, out = (Images(rng.integers(0, 256, (count, 8, 8, 1), dtype=np.uint8), np.arange(count) % 10) for _ in range(2))
    fitted = Gaussians.fit(x, ridge=0.01)
    gaussians = Gaussians(fitted.mean.cuda(), fitted.factor.cuda(), fitted.shape)
    context = Context(0, (1, 8, 8), 10, gaussians, torch.device("cuda"))
    return config.model(config.read(config.Path("params.yaml"), "tiny"), name), x, out, context


@pytest.mark.parametrize("name", sorted(METHODS.keys() - FLOWS))
def test_a_step_never_waits_for_the_device(name):
    model, x, out, context = setting(name, 160)
    batches = Batches(x, 16, model.training.augmentation, 0, "cuda", out, model.method.plain)
    method, own = model.method, model.network.build((1, 8, 8), model.method.outputs(10)).cuda().train()
    if name in ("at_ebm", "dat"):
        method = replace(method, progressive=None)  # it reads its AUC, and the Gaussians read the classes: both wait
        method = replace(method, start=tuple(start for start in method.start if start != "gaussians") or ("uniform",))
    if hasattr(method, "buffer"):
        method = replace(method, buffer=Replay(size=100, reinit=0.5))
    method.begin(context._replace(passes=Passes.on("cuda", "bf16")))
    optimizer = built(model.training.optimizer, own)

    def step(number):
        batch = batches(number)
        optimizer.zero_grad()
        method.loss(own, batch, number).value.backward()
        optimizer.step()

    step(0)  # records the graphs
    recorded = method.passes.recorded
    assert (recorded is None) == (name in ("standard", "noise", "oe"))
    assert recorded is None or (recorded.graphs and all(recorded.graphs.values()))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number in range(1, 10):
            step(number)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_model_takes_images_of_the_cpu_and_composes_classes(tmp_path):
    _, x, _, context = setting("robust_jem", 8)
    recipe = {"recipe": "sgld", "start": "gaussians", "chain": {"steps": 2, "step_size": 1.0, "noise": 0.01}}
    about = {"method": "robust_jem", "classes": 10, "detector": "energy", "precision": "tf32", "recipes": {"sgld": recipe}}
    model = Model(tmp_path, WideResNet(depth=10, width=1).build((1, 8, 8), 10).cuda(), about, [])
    model.gaussians = context.gaussians
    for given in (x.x, x.pixels(), x.pixels("cuda")):
        assert all(found.is_cuda for found in (*model.classify(given), model.energy(given, x.y), model.score(given)))
        assert model.attack(given, x.y, eps=0.1).is_cuda
    for expression in ("1", "0 or 1", "1 and not 0"):
        assert model.compose(expression, 4).shape == (4, 1, 8, 8)


def test_a_training_warns_of_nothing():
    """Not even what torch warns about only once per process."""
    model, x, out, context = setting("robust_jem", 64)
    own = model.network.build((1, 8, 8), model.method.outputs(10)).cuda()
    training = replace(model.training, epochs=3, record_every=2)
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fit(model.method, own, x, x, training, context, log=lambda step, record: None, outliers=out)
    finally:
        torch.set_warn_always(False)
    graphs = model.method.passes.recorded.graphs
    assert graphs and all(graphs.values())


def test_recordings_share_their_memory():
    own, passes = net("none"), Passes.on("cuda")
    held = []
    for count in (None, 256, 255, 128):
        if count:
            slope(own, torch.rand(count, 3, 32, 32, device="cuda"), passes)
        torch.cuda.empty_cache()
        held.append(torch.cuda.memory_reserved())
    assert all(passes.recorded.graphs.values()) and held[-1] - held[1] < (held[1] - held[0]) / 2


@pytest.mark.parametrize("name", ["standard", "robust_jem", "at_ebm", "glow"])
@pytest.mark.parametrize("optimizer", [SGD(name="sgd", lr=0.01), Adam(name="adam", lr=0.001)])
def test_a_training_goes_on_from_the_disk(tmp_path, name, optimizer):
    model, x, out, context = setting(name, 64)
    training = replace(model.training, epochs=3, record_every=2, optimizer=optimizer)
    state, records = State(tmp_path), {}

    def trained(**more):
        torch.manual_seed(0)
        own = model.network.build((1, 8, 8), model.method.outputs(10)).cuda()
        keep = lambda step, tensors: state.save(Good(tensors, {"step": step}), always=True)  # noqa: E731
        fit(model.method, own, x, x, training, context, log=records.__setitem__, keep=keep, outliers=out, **more)

    trained()
    whole, good = dict(records), state.load()
    assert good.about["step"] == max(whole) > min(whole)
    max(tmp_path.glob("*.safetensors")).unlink()
    records.clear()
    good = state.load()
    trained(start=good.about["step"], state=good.tensors)
    assert list(records) == [step for step in whole if step > good.about["step"]]
    first = min(records)
    assert records[first]["train/loss"] == pytest.approx(whole[first]["train/loss"], rel=1e-2, abs=1e-2)


def test_bench_finds_both_ways_alike(tmp_path):
    cli.bench(out=tmp_path / "bench.json", study="tiny", method=["robust_jem"], batch=8, steps=2, repeats=1, quiet=True)
    assert json.loads((tmp_path / "bench.json").read_text())["device"] == torch.cuda.get_device_name()
