"""What only a GPU can show: chains and attacks by CUDA graphs, and steps that never wait for it. Without one, skipped."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from advebm import config, networks
from advebm.data.batches import Batches
from advebm.data.gaussians import Gaussians
from advebm.data.images import Images
from advebm.energy import grad, marginal
from advebm.methods import METHODS
from advebm.methods.base import Context
from advebm.networks.wrn import WideResNet
from advebm.training import built

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
WAITS = {"at_ebm", "glow", "residual_flow"}  # the curriculum reads an AUC; flows are normflows'


def net(norm="batch"):
    torch.manual_seed(0)
    return WideResNet(depth=10, width=1, norm=norm).build((3, 32, 32), 10).cuda()


def slope(own, x):
    with networks.sampling(own):
        return grad(marginal(own), x)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("norm", ["batch", "none", "group"])
def test_replays_give_the_gradient_of_the_weights_as_they_are(norm, bf16):
    own = net(norm)
    plain = networks.accelerated(copy.deepcopy(own), bf16)
    plain.recorded = None
    networks.accelerated(own, bf16)
    for turn, count in enumerate([8, 16, 8, 8]):
        x = torch.rand(count, 3, 32, 32, device="cuda")
        torch.testing.assert_close(slope(own, x), slope(plain, x), rtol=1e-3, atol=1e-4)
        with torch.no_grad():
            for a, b in zip(own.parameters(), plain.parameters(), strict=True):
                b.copy_(a.mul_(1.01 + 0.01 * turn))
    assert len(own.recorded.graphs) == 2
    assert all(graph is not own.recorded.passes for graph in own.recorded.graphs.values())
    assert all(weight.requires_grad for weight in own.parameters())


def test_what_cannot_be_recorded_runs_all_the_same():
    class Waits(nn.Module):
        def forward(self, h):
            return h * float(h.sum() > 0)

    own = net()
    own.trunk.insert(0, Waits())
    networks.accelerated(own, False)
    x = torch.rand(4, 3, 32, 32, device="cuda")
    found = slope(own, x)
    assert list(own.recorded.graphs.values()) == [own.recorded.passes]
    own.recorded = None
    torch.testing.assert_close(found, slope(own, x))


@pytest.mark.parametrize("name", sorted(METHODS.keys() - WAITS))
def test_a_step_never_waits_for_the_device(name):
    model = config.model(config.read(config.Path("params.yaml"), "tiny"), name)
    rng = np.random.default_rng(0)
    x, out = (Images(rng.integers(0, 256, (64, 8, 8, 1), dtype=np.uint8), np.arange(64) % 10) for _ in range(2))
    fitted = Gaussians.fit(x, ridge=0.01)
    gaussians = Gaussians(fitted.mean.cuda(), fitted.factor.cuda(), fitted.shape)
    batches = Batches(x, 16, model.training.augmentation, 0, "cuda", out)
    method, own = model.method, model.network.build((1, 8, 8), model.method.outputs(10)).cuda().train()
    method.begin(Context(0, (1, 8, 8), 10, gaussians, torch.device("cuda")))
    networks.accelerated(own, True)
    optimizer = built(model.training.optimizer, own)

    def step(number):
        batch = batches(number)
        optimizer.zero_grad()
        method.loss(own, batch, number).value.backward()
        optimizer.step()

    step(0)  # records the graphs
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number in (1, 2, 3):
            step(number)
    finally:
        torch.cuda.set_sync_debug_mode("default")
