"""Each method's loss: identities between methods, and a slow, literal transcription of its equation."""

import pytest
import torch

from advebm.data.batches import Batch
from advebm.data.gaussians import Gaussians
from advebm.energy import given, marginal
from advebm.methods import METHODS
from advebm.methods.base import Context
from advebm.samplers.buffer import Replay
from advebm.samplers.pgd import Attack
from advebm.samplers.proximal import Proximal
from advebm.samplers.sgld import Langevin

ATTACK = Attack(eps=0.1, steps=3)
LANGEVIN = Langevin(steps=3, step_size=0.2, noise=0.01, clamp_grad=0.5)
PROXIMAL = Proximal(outer=2, inner=3, step_size=0.05, clamp_grad=0.3)
REPLAY = Replay(size=20, reinit=0.3)
FIELDS = {
    "standard": {},
    "at": {"attack": ATTACK},
    "jem": {"sampler": LANGEVIN, "buffer": REPLAY},
    "jempp": {"sampler": PROXIMAL, "buffer": REPLAY},
    "robust_jem": {"attack": ATTACK, "sampler": PROXIMAL, "buffer": REPLAY},
}


@pytest.fixture
def make(images):
    gaussians = Gaussians.fit(images, ridge=0.01)

    def make(name, **changes):
        method = METHODS[name](**{**FIELDS[name], **changes})
        method.begin(Context(seed=3, shape=(1, 4, 4), gaussians=gaussians, device="cpu"))
        if hasattr(method, "replay"):
            method.replay.images = method.replay.images.double()  # as the networks here are
        return method

    return make


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return Batch(torch.rand(6, 1, 4, 4, dtype=torch.float64), torch.arange(6) % 3)


def gradients(net, loss):
    net.zero_grad()
    loss.value.backward()
    return torch.cat([p.grad.flatten() for p in net.parameters()])


def same(net, batch, a, b):
    one, two = a.loss(net, batch, 7), b.loss(net, batch, 7)
    values = torch.isclose(one.value, two.value, rtol=1e-12, atol=0)
    return bool(values) and torch.allclose(gradients(net, one), gradients(net, two), rtol=1e-9, atol=1e-14)


def test_every_method_is_tested():
    assert set(FIELDS) == set(METHODS)


def test_methods_reduce_to_each_other(make, small, batch):
    none = Attack(eps=0.0, steps=1)
    assert same(small, batch, make("at", attack=none), make("standard"))
    assert same(small, batch, make("jem", p_x=0.0), make("standard"))
    assert same(small, batch, make("jempp", p_x=0.0), make("standard"))
    assert same(small, batch, make("robust_jem", p_x=0.0), make("at"))
    assert same(small, batch, make("robust_jem", attack=none), make("jempp"))
    assert not same(small, batch, make("at"), make("standard"))
    assert not same(small, batch, make("robust_jem"), make("at"))


@pytest.mark.parametrize("name", sorted(METHODS))
def test_loss_is_a_function_of_seed_and_step(make, small, batch, name):
    one, two, three = make(name), make(name), make(name)
    values = [method.loss(small, batch, step).value for method, step in ((one, 4), (two, 4), (three, 5))]
    assert torch.equal(values[0], values[1])
    if name != "standard":
        assert not torch.equal(values[0], values[2])
    assert small.training


def slow_ce(net, x, y):
    return torch.stack(
        [-(net(x[i : i + 1])[0, y[i]].exp() / net(x[i : i + 1])[0].exp().sum()).log() for i in range(len(x))]
    ).mean()


def slow_energy(net, x):
    return torch.stack([-net(x[i : i + 1])[0].exp().sum().log() for i in range(len(x))])


def slow_attack(net, x, y, start, eps, steps):
    """x <- project(x + 2.5 eps / steps sign(d CE / dx)), as Madry et al. write it."""
    x_adv = start
    for _ in range(steps):
        v = x_adv.clone().requires_grad_(True)
        slow_ce(net, v, y).backward()
        x_adv = x_adv + 2.5 * eps / steps * v.grad.sign()
        x_adv = torch.max(torch.min(x_adv, x + eps), x - eps).clamp(0, 1)
    return x_adv


def slow_descent(net, x, places, numbers, streams):
    """x <- x - step clamp(dE/dx) (+ noise), one image after the other."""
    for _ in range(numbers["steps"]):
        gradient = torch.empty_like(x)
        for i in range(len(x)):
            v = x[i : i + 1].clone().requires_grad_(True)
            slow_energy(net, v).sum().backward()
            gradient[i] = v.grad[0]
        x = x - numbers["step_size"] * gradient.clamp(-numbers["clamp"], numbers["clamp"])
        x = x + numbers["noise"] * streams.normal(1, 4, 4) if numbers["noise"] else x.clamp(0, 1)
    return x


@pytest.mark.parametrize("name", sorted(METHODS))
def test_loss_is_the_papers_equation(make, small, batch, name):
    x, y = batch
    method, twin = make(name, **({"energy_l2": 0.07, "p_x": 0.6} if name not in ("standard", "at") else {})), make(name)
    loss = method.loss(small, batch, 2)

    x_ce = x
    if name in ("at", "robust_jem"):
        noise = (2 * twin.streams("attack", 2, count=6).uniform(1, 4, 4) - 1) * 0.1
        x_ce = slow_attack(small, x, y, (x + noise).clamp(0, 1), 0.1, 3)
        assert torch.allclose(loss.x_adv, x_ce, atol=1e-7)
    expected = slow_ce(small, x_ce, y)
    if name not in ("standard", "at"):
        streams = twin.streams("negatives", 2, count=6)
        start, places = twin.replay.draw(2, 6)
        sgld = {"steps": 3, "step_size": 0.2, "noise": 0.01, "clamp": 0.5}
        proximal = {"steps": 2, "step_size": 3 * 0.05, "noise": 0.0, "clamp": 0.3}
        x_neg = slow_descent(small, start, places, sgld if name == "jem" else proximal, streams)
        assert torch.allclose(loss.x_neg, x_neg, atol=1e-9)
        e_pos, e_neg = slow_energy(small, x), slow_energy(small, loss.x_neg)
        expected = expected + 0.6 * (e_pos.mean() - e_neg.mean()) + 0.07 * ((e_pos**2).mean() + (e_neg**2).mean())
        assert torch.equal(method.replay.images[places], loss.x_neg)
    assert torch.isclose(loss.value, expected, atol=1e-9)


def test_robust_jem_may_take_adversarial_positives(make, small, batch):
    clean, adversarial = make("robust_jem"), make("robust_jem", positives="adversarial")
    a, b = clean.loss(small, batch, 1), adversarial.loss(small, batch, 1)
    assert torch.isclose(a.logs["energy"], slow_energy(small, batch.x).mean())
    assert torch.isclose(b.logs["energy"], slow_energy(small, b.x_adv).mean())


def test_cross_entropy_is_the_gap_of_energies_in_every_loss(make, small, batch):
    f = given(small(batch.x))
    assert torch.isclose(make("standard").loss(small, batch, 0).value, slow_ce(small, batch.x, batch.y))
    assert torch.allclose(marginal(f)(batch.x), slow_energy(small, batch.x))


@pytest.mark.parametrize("name", ["jem", "jempp", "robust_jem"])
def test_state_is_the_replay_buffer(make, small, batch, name):
    method, other = make(name), make(name)
    method.loss(small, batch, 0)
    state = {key: value.clone() for key, value in method.state_dict().items()}
    other.load_state_dict(state)
    assert torch.equal(method.loss(small, batch, 1).value, other.loss(small, batch, 1).value)
