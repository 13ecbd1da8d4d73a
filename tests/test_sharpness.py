"""Sharpness-aware minimisation: a quadratic in closed form, and the published algorithm written slowly."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from advebm.data.batches import Augmentation, Batches
from advebm.data.gaussians import Gaussians
from advebm.methods import METHODS
from advebm.methods.base import Context
from advebm.methods.standard import Standard
from advebm.networks.wrn import WideResNet
from advebm.samplers.buffer import Replay
from advebm.samplers.pgd import Ascent, Attack
from advebm.samplers.proximal import Proximal
from advebm.sharpness import SAM
from advebm.training import SGD, Adam, Training, fit

SGD_ = SGD(name="sgd", lr=0.1, momentum=0.0)


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_step_on_a_quadratic_is_its_closed_form(adaptive):
    """L(w) = w'Aw / 2, g = Aw: the gradient at w + e is A (w + e), e = rho T^2 Aw / |T A w|."""
    torch.manual_seed(0)
    root = torch.randn(5, 5, dtype=torch.float64)
    a, start = root @ root.T, torch.randn(5, dtype=torch.float64)
    parts = [
        nn.Parameter(start[:2].clone()),
        nn.Parameter(start[2:].clone()),
        nn.Parameter(torch.ones(3)),
    ]  # the last unused
    loss = lambda: torch.cat(parts[:2]) @ a @ torch.cat(parts[:2]) / 2  # noqa: E731
    loss().backward()
    with SAM(rho=0.3, adaptive=adaptive).climbed(parts):
        there = torch.cat(parts[:2]).detach()
        for part in parts:
            part.grad = None
        loss().backward()
    t = start.abs() if adaptive else 1.0
    e = 0.3 * t**2 * (a @ start) / (t * (a @ start)).norm()
    assert torch.allclose(there, start + e) and (e / t).norm().item() == pytest.approx(0.3)
    assert torch.equal(torch.cat(parts[:2]), start), "afterwards the weights are what they were, bit by bit"
    assert torch.allclose(torch.cat([part.grad for part in parts[:2]]), a @ (start + e))
    assert (parts[2] == 1).all() and parts[2].grad is None


def test_the_adaptive_step_does_not_depend_on_the_scale_of_the_weights():
    """L(cw) has the optimum e at cw: T^-1 e, and so the loss there, is the same for every c (Kwon et al. 2021)."""
    losses = {adaptive: [] for adaptive in (False, True)}
    for adaptive, values in losses.items():
        for c in (1.0, 10.0):
            w = nn.Parameter(c * torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
            function = lambda c=c, w=w: ((w / c).sin() + (w / c) ** 2).sum()  # noqa: E731
            function().backward()
            with SAM(rho=0.1, adaptive=adaptive).climbed([w]):
                values.append(function().item())
    assert losses[True][0] == pytest.approx(losses[True][1]) and losses[False][0] != pytest.approx(losses[False][1])


def trained(method, net, images, steps, **changes):
    training = Training(epochs=steps / 3, batch=20, optimizer=SGD_, record_every=100)
    context = Context(0, (1, 4, 4), 3, Gaussians.fit(images, ridge=0.01), "cpu")
    more = {"outliers": images} if method.outliers else {}
    return fit(method, net, images, images, replace(training, **changes), context, log=lambda *_: None, **more)


PROXIMAL, REPLAY = Proximal(outer=2, inner=1, step_size=0.1, clamp_grad=0.3), Replay(size=60, reinit=0.0)
CASES = {
    "standard": {},
    "at": {"attack": Attack(eps=0.1, steps=2)},
    "jempp": {"sampler": PROXIMAL, "buffer": REPLAY},
    "at_ebm": {"ascent": Ascent(steps=2, step_size=0.1)},
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("adaptive", [False, True])
def test_a_training_step_is_the_published_algorithm(images, name, adaptive):
    """Foret et al. 2021, Algorithm 1; negatives are sampled once, at w, as Yang et al. 2023 released it."""
    torch.manual_seed(0)
    method, slow = (METHODS[name](**CASES[name]) for _ in "ab")
    net = WideResNet(depth=10, width=1, norm="batch").build((1, 4, 4), method.outputs(3))
    twin = copy.deepcopy(net)
    spec = replace(SGD_, sam=SAM(rho=0.5, adaptive=adaptive))
    trained(method, net, images, 1, optimizer=spec)

    context = Context(0, (1, 4, 4), 3, Gaussians.fit(images, ridge=0.01), "cpu")
    batch = Batches(images, 20, Augmentation(), 0, "cpu", images if slow.outliers else None)(0)
    slow.begin(context)
    loss = slow.loss(twin, batch, 0)
    statistics = {key: value.clone() for key, value in twin.named_buffers()}
    weights = list(twin.parameters())
    g = torch.autograd.grad(loss.value, weights, allow_unused=True)
    g = [torch.zeros_like(w) if own is None else own for w, own in zip(weights, g, strict=True)]
    before = [w.detach().clone() for w in weights]
    t = [w.abs() if adaptive else torch.ones_like(w) for w in before]
    length = sum((own * s).pow(2).sum() for own, s in zip(g, t, strict=True)).sqrt()
    for w, own, s in zip(weights, g, t, strict=True):
        w.data += 0.5 * s * s * own / length
    again = slow.loss(twin, batch, 0)
    if loss.x_neg is not None:
        assert torch.equal(loss.x_neg, again.x_neg)
    if name == "at":
        assert not torch.equal(loss.x_adv, again.x_adv), "the attack is on the loss at w + e"
    slopes = torch.autograd.grad(again.value, weights)
    for own, slope, new in zip(before, slopes, net.parameters(), strict=True):
        assert torch.allclose(new, own - 0.1 * slope, atol=1e-6)
    assert not any(torch.allclose(a, b, atol=1e-4) for a, b in ((slopes[-2], g[-2]), (slopes[-1], g[-1])))
    for key, value in net.named_buffers():
        assert "tracked" in key or torch.allclose(value, statistics[key]), "running statistics are those of the pass at w"
    if name == "jempp":
        assert torch.equal(method.replay.images, slow.replay.images)


def test_spectral_norms_iterate_once_a_step_and_both_losses_have_the_same(images):
    torch.manual_seed(0)
    net = WideResNet(depth=10, width=1, spectral=True).build((1, 4, 4), 3)
    vectors = {key: value for key, value in net.named_buffers() if key.endswith(("._u", "._v"))}
    once = copy.deepcopy(net)
    once.renew()
    trained(Standard(), net, images, 1, optimizer=replace(SGD_, sam=SAM(rho=0.5)))
    expected = dict(once.named_buffers())
    assert vectors and all(torch.equal(value, expected[key]) for key, value in vectors.items())


@pytest.mark.parametrize("spec", [SGD_, Adam(name="adam", lr=1e-3)])
def test_sam_changes_what_is_trained_and_radius_0_is_none(images, spec):
    nets = []
    for sam in (None, SAM(rho=1e-30), SAM(rho=0.1), SAM(rho=0.1, adaptive=True)):
        torch.manual_seed(0)
        net = WideResNet(depth=10, width=1).build((1, 4, 4), 3)
        net = trained(Standard(), net, images, 4, optimizer=replace(spec, sam=sam))
        nets.append(torch.cat([p.flatten() for p in net.parameters()]))
    assert torch.equal(nets[0], nets[1])
    assert len({own.sum().item() for own in nets[1:]}) == 3
