"""Gradient checkpointing: `checkpoint: true` of a network."""

from dataclasses import replace

import pytest
import torch

from advebm import networks
from advebm.bench.timing import peak_on_cpu
from advebm.data.batches import Batch
from advebm.methods import METHODS
from advebm.methods.base import Context
from advebm.networks.passes import Passes
from advebm.networks.resnet import ResNet
from advebm.networks.wrn import WideResNet
from advebm.samplers.pgd import Ascent, Attack
from advebm.training import Losses

SPECS = [
    WideResNet(depth=10, width=1, norm="batch"),
    WideResNet(depth=10, width=1, spectral=True),
    ResNet(depth=18, norm="batch"),
    ResNet(depth=50, norm="frozen"),
]


def gradients(net, precision="fp32"):
    """The gradients of a training step of at_ebm, with R1's second derivatives, or of an adversarial training."""
    if net.outputs == 1:
        method = METHODS["at_ebm"](ascent=Ascent(steps=2, step_size=0.1), r1=0.3)
    else:
        method = METHODS["at"](attack=Attack(eps=0.1, steps=2))
    method.begin(Context(0, net.shape, 3, None, "cpu", passes=Passes("bf16" if precision == "bf16" else "fp32")))
    x, x_out = torch.rand(2, 4, *net.shape, generator=torch.Generator().manual_seed(1))
    Losses(method, net, precision)(Batch(x, torch.arange(4) % 3, x_out), 0).value.backward()
    return {name: weight.grad for name, weight in net.named_parameters()}


def both(spec, outputs, shape=(3, 8, 8)):
    for own in (spec, replace(spec, checkpoint=True)):
        torch.manual_seed(0)
        yield own.build(shape, outputs)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.kind}-{spec.norm}")
def test_gradients_and_statistics_are_the_same_bytes(spec, outputs):
    kept, again = both(spec, outputs)
    wanted, found = gradients(kept), gradients(again)
    assert found.keys() == wanted.keys() and any(gradient.abs().max() > 0 for gradient in wanted.values())
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    state = again.state_dict()
    assert all(torch.equal(state[name], value) for name, value in kept.state_dict().items()), "batches are counted once"


def test_in_bfloat16_too():
    kept, again = (gradients(net, "bf16") for net in both(SPECS[0], 3))
    assert all(torch.equal(again[name], kept[name]) for name in kept)


def test_it_saves_memory():
    kept, again = both(WideResNet(depth=28, width=1), 3, (3, 16, 16))
    x = torch.rand(32, 3, 16, 16)
    most, least = (peak_on_cpu(lambda net=net: net(x).sum().backward()) for net in (kept, again))
    assert least < most / 2


def test_a_model_file_says_so_only_where_it_is_so(tmp_path):
    for i, net in enumerate(both(SPECS[2], 3)):
        networks.save(tmp_path / f"{i}.safetensors", net)
    off, on = (networks.header(tmp_path / f"{i}.safetensors")["network"] for i in range(2))
    assert "checkpoint" not in off and on == off | {"checkpoint": True}
    loaded, _ = networks.load(tmp_path / "1.safetensors")
    assert loaded.spec.checkpoint
    fresh = SPECS[2].build((3, 8, 8), 3)
    networks.initialise(fresh, tmp_path / "1.safetensors")
    assert torch.equal(fresh.head.weight, loaded.head.weight)
