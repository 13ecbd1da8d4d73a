"""Each method's loss: identities between methods, and a slow, literal transcription of its equation."""

import math
from dataclasses import replace

import pytest
import torch

from advebm.data.batches import Batch
from advebm.data.gaussians import Gaussians
from advebm.energy import SCORES, conditional, marginal, posterior
from advebm.methods import METHODS
from advebm.methods.ascent import Progressive
from advebm.methods.base import Context
from advebm.networks.flow import LOG_DET_TERMS, Glow, ResidualFlow, estimates_from
from advebm.networks.passes import Passes
from advebm.networks.resnet import ResNet
from advebm.networks.wrn import WideResNet
from advebm.samplers.buffer import Replay
from advebm.samplers.pgd import Ascent, Attack
from advebm.samplers.proximal import Proximal
from advebm.samplers.sgld import Langevin
from advebm.samplers.streams import Streams

ATTACK = Attack(eps=0.1, steps=3)
NONE = Attack(eps=0.0, steps=1)
LANGEVIN = Langevin(steps=3, step_size=0.2, noise=0.01, clamp_grad=0.5)
PROXIMAL = Proximal(outer=2, inner=3, step_size=0.05, clamp_grad=0.3)
REPLAY = Replay(size=20, reinit=0.3)
FIELDS = {
    "standard": {},
    "noise": {"std": 0.1},
    "at": {"attack": ATTACK},
    "prejeat": {"attack": Attack(eps=0.1, steps=1, random_start=False)},
    "jem": {"sampler": LANGEVIN, "buffer": REPLAY},
    "jempp": {"sampler": PROXIMAL, "buffer": REPLAY},
    "robust_jem": {"attack": ATTACK, "sampler": PROXIMAL, "buffer": REPLAY},
    "jeat": {"eps": 0.1, "sampler": LANGEVIN, "buffer": REPLAY},
    "at_ebm": {"ascent": Ascent(steps=3, step_size=0.1), "r1": 0.3},
    "oe": {},
    "ratio": {"attack": ATTACK, "attack_out": Attack(eps=0.5, steps=2, norm="l2")},
    "igebm": {"sampler": LANGEVIN, "buffer": REPLAY, "energy_l2": 0.5},
    "glow": {},
    "residual_flow": {},
    "weat": {"attack": ATTACK},
    "eb_jdat": {"attack": ATTACK, "sampler": PROXIMAL, "buffer": REPLAY},
    "dat": {"attack": ATTACK, "ascent": Ascent(steps=3, step_size=0.1)},
    "sada_jem": {"sampler": LANGEVIN, "buffer": REPLAY},
}
RANDOM = set(METHODS) - {"standard", "prejeat", "at_ebm", "oe"}


@pytest.fixture
def make(images):
    gaussians = Gaussians.fit(images, ridge=0.01)

    def make(name, **changes):
        method = METHODS[name](**{**FIELDS[name], **changes})
        method.begin(Context(seed=3, shape=(1, 4, 4), classes=3, gaussians=gaussians, device="cpu"))
        if hasattr(method, "replay"):
            method.replay.kept = method.replay.kept.double()  # like the networks in these tests
        return method

    return make


@pytest.fixture
def nets(small, binary):
    """A function from a method's name to a network it can train, in float64."""
    torch.manual_seed(4)
    glow = Glow(kind="glow", levels=1, blocks=2, hidden=4).build((1, 4, 4), 1).double()
    residual = ResidualFlow(kind="residual_flow", levels=1, blocks=1, hidden=4).build((1, 4, 4), 1).double()
    nets = {"at_ebm": binary, "glow": glow, "residual_flow": residual}
    return lambda name: nets.get(name, small)


@pytest.fixture
def batch():
    torch.manual_seed(1)
    x, x_out = torch.rand(2, 6, 1, 4, 4, dtype=torch.float64)
    return Batch(x, torch.arange(6) % 3, x_out)


def gradients(net, loss):
    net.zero_grad()
    loss.value.backward()
    return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])


def same(net, batch, a, b, factor=1.0, constant=0.0):
    """Whether loss a = factor * loss b + constant, in value and in gradient."""
    one, two = a.loss(net, batch, 7), b.loss(net, batch, 7)
    values = torch.isclose(one.value, factor * two.value + constant, rtol=1e-12, atol=1e-12)
    return bool(values) and torch.allclose(gradients(net, one), factor * gradients(net, two), rtol=1e-9, atol=1e-14)


def test_every_method_is_tested():
    assert set(FIELDS) == set(METHODS)


def test_methods_reduce_to_each_other(make, small, batch):
    assert same(small, batch, make("at", attack=NONE), make("standard"))
    assert same(small, batch, make("noise", std=0.0), make("standard"))
    assert same(small, batch, make("prejeat", attack=NONE), make("standard"))
    assert same(small, batch, make("oe", weight=0.0), make("standard"))
    assert same(small, batch, make("jem", p_x=0.0), make("standard"))
    assert same(small, batch, make("jempp", p_x=0.0), make("standard"))
    assert same(small, batch, make("robust_jem", p_x=0.0), make("at"))
    assert same(small, batch, make("robust_jem", attack=NONE), make("jempp"))
    assert same(small, batch, make("jeat", eps=0.0), make("jem"))
    assert same(small, batch, make("dat", weight=0.0), make("at"))
    plain = batch._replace(x_plain=batch.x)
    assert same(small, plain, make("sada_jem", p_x=0.0), make("standard"))
    assert same(small, plain, make("sada_jem"), make("sada_jem", positives="augmented"))
    one_step = Attack(eps=0.1, steps=1, step_size=0.1, random_start=True)
    inner = batch._replace(x=0.2 + 0.6 * batch.x)  # JEAT clips to [0, 1] once, at the end
    assert same(small, inner, make("jeat", p_x=0.0, gradient_at="start"), make("prejeat", attack=one_step))
    assert same(small, batch, make("ratio", weight=0.0), make("at"))
    clean = make("ratio", attack=NONE, attack_out=NONE, weight=1 / 3)
    assert same(small, batch, make("oe"), clean, factor=1.5, constant=0.5 * math.log(3))
    robust = {"clean": 0.0, "align": 0.0, "ascends": "ce"}
    assert same(small, batch, make("eb_jdat", **robust), make("robust_jem"))
    assert same(small, batch, make("eb_jdat", attack=NONE, p_x=0.0), make("standard"), factor=2.0)
    assert same(small, batch, make("robust_jem", p_x=0.0), make("robust_jem", p_x=0.0, align=0.0))
    assert same(small, batch, make("at", beta=0.0), make("standard"))
    assert same(small, batch, make("at", attack=NONE, beta=3.0), make("standard"))
    assert not same(small, batch, make("at", beta=6.0), make("at"))
    assert not same(small, batch, make("eb_jdat"), make("eb_jdat", **{**robust, "clean": 1.0}))
    assert not same(small, batch, make("robust_jem", align=0.1), make("robust_jem"))
    assert not same(small, batch, make("at"), make("standard"))
    assert not same(small, batch, make("prejeat"), make("standard"))
    assert not same(small, batch, make("robust_jem"), make("at"))
    assert not same(small, batch, make("jeat", eps=0.5), make("jeat", eps=0.5, gradient_at="start"))


def test_dat_reduces_to_at_ebm(make, binary, batch):
    """With one logit, whose cross-entropy is 0, dat is at_ebm without R1, by either energy."""
    one = batch._replace(y=torch.zeros(6, dtype=torch.int64))
    at_ebm = make("at_ebm", r1=0.0)
    for discriminates in ("marginal", "conditional"):
        assert same(binary, one, make("dat", weight=1.0, discriminates=discriminates), at_ebm)
    assert not same(binary, one, make("dat"), at_ebm) and same(binary, one, make("dat"), at_ebm, factor=0.5)


def test_at_ebm_reduces_to_its_parts(make, binary, batch):
    still = Ascent(steps=0, step_size=0.1)
    first_k = make("at_ebm", progressive=Progressive(iterations=5))
    assert same(binary, batch, first_k, make("at_ebm", ascent=still))
    assert same(binary, batch, make("at_ebm", descent=still), make("at_ebm"))
    plain = make("at_ebm", ascent=still, r1=0.0, objective="ebm").loss(binary, batch, 0)
    assert torch.isclose(plain.value, slow_energy(binary, batch.x).mean() - slow_energy(binary, batch.x_out).mean())
    starts = [make("at_ebm", start=(start,)).loss(binary, batch, 0) for start in ("outliers", "gaussians", "uniform")]
    assert len({loss.value.item() for loss in starts}) == 3
    mixed = make("at_ebm", start=("outliers", "uniform"), ascent=still).loss(binary, batch, 0).x_neg
    assert torch.equal(mixed[::2], batch.x_out[::2]) and not torch.equal(mixed[1::2], batch.x_out[1::2])


@pytest.mark.parametrize("name", sorted(METHODS))
def test_loss_is_a_function_of_seed_and_step(make, nets, batch, name):
    net, batch = nets(name), batch._replace(x_plain=batch.x)
    make(name).loss(net, batch, 0)  # a flow initialises itself from its first batch
    one, two, three = make(name), make(name), make(name)
    values = [method.loss(net, batch, step).value for method, step in ((one, 4), (two, 4), (three, 5))]
    assert torch.equal(values[0], values[1])
    assert torch.equal(values[0], values[2]) is (name not in RANDOM)
    assert net.training


def slow_logits(net, x):
    return torch.stack([net(x[i : i + 1])[0] for i in range(len(x))])


def slow_ce(net, x, y):
    p = slow_logits(net, x).exp()
    return torch.stack([-(p[i, y[i]] / p[i].sum()).log() for i in range(len(x))]).mean()


def slow_to_uniform(net, x):
    """mean over classes of -log p(k | x)."""
    p = slow_logits(net, x).exp()
    return torch.stack([-(q / q.sum()).log().sum() / len(q) for q in p]).mean()


def slow_energy(net, x, y=None):
    f = slow_logits(net, x)
    return -f.exp().sum(1).log() if y is None else torch.stack([-f[i, y[i]] for i in range(len(x))])


def slow_gradient(function, x):
    """The gradient of function(image, index), one image at a time."""
    gradient = torch.empty_like(x)
    for i in range(len(x)):
        v = x[i : i + 1].clone().requires_grad_(True)
        (gradient[i],) = torch.autograd.grad(function(v, i).sum(), v)[0]
    return gradient


def slow_attack(net, x, y, start, eps, steps):
    """x <- project(x + 2.5 eps / steps sign(d CE / dx)), as Madry et al. write it."""
    x_adv = start
    for _ in range(steps):
        gradient = slow_gradient(lambda v, i: slow_ce(net, v, y[i : i + 1]), x_adv)
        x_adv = x_adv + 2.5 * eps / steps * gradient.sign()
        x_adv = torch.max(torch.min(x_adv, x + eps), x - eps).clamp(0, 1)
    return x_adv


def slow_l2_attack(function, x, start, eps, steps):
    """x <- project(x + 2.5 eps / steps g / |g|), ascending the function."""
    x_adv = start
    for _ in range(steps):
        gradient = slow_gradient(function, x_adv)
        d = torch.stack([v + 2.5 * eps / steps * g / g.norm() - o for v, g, o in zip(x_adv, gradient, x, strict=True)])
        x_adv = (x + torch.stack([v if v.norm() <= eps else v * eps / v.norm() for v in d])).clamp(0, 1)
    return x_adv


def slow_descent(net, x, numbers, streams, y=None):
    """x <- x - step clamp(dE/dx) (+ noise), one image at a time."""
    for _ in range(numbers["steps"]):
        gradient = slow_gradient(lambda v, i: slow_energy(net, v, None if y is None else y[i : i + 1]), x)
        x = x - numbers["step_size"] * gradient.clamp(-numbers["clamp"], numbers["clamp"])
        x = x + numbers["noise"] * streams.normal(1, 4, 4) if numbers["noise"] else x.clamp(0, 1)
    return x


SGLD = {"steps": 3, "step_size": 0.2, "noise": 0.01, "clamp": 0.5}
PROXIMAL_STEPS = {"steps": 2, "step_size": 3 * 0.05, "noise": 0.0, "clamp": 0.3}


def sign_start(twin):
    return (2 * twin.streams("attack", 2, count=6).uniform(1, 4, 4) - 1) * 0.1


@pytest.mark.parametrize("name", ["standard", "noise", "at", "prejeat", "jem", "jempp", "robust_jem", "jeat", "sada_jem"])
def test_loss_is_the_papers_equation(make, small, batch, name):
    batch = batch._replace(x_plain=batch.x.flip(3))
    x, y = batch.x, batch.y
    chains = name in ("jem", "jempp", "robust_jem", "jeat", "sada_jem")
    method, twin = make(name, **({"energy_l2": 0.07, "p_x": 0.6} if chains else {})), make(name)
    loss = method.loss(small, batch, 2)

    x_ce, x_pos = x, batch.x_plain if name == "sada_jem" else x
    if name == "noise":
        x_ce = x + 0.1 * twin.streams("noise", 2, count=6).normal(1, 4, 4)
    if name in ("at", "robust_jem"):
        x_ce = slow_attack(small, x, y, (x + sign_start(twin)).clamp(0, 1), 0.1, 3)
    if name == "prejeat":  # JT, Eq. 18
        gradient = slow_gradient(lambda v, i: slow_energy(small, v, y[i : i + 1]), x)
        x_ce = (x + 0.1 * gradient.sign()).clamp(0, 1)
    if name == "jeat":  # JT, Algorithm 1
        gradient = slow_gradient(lambda v, i: slow_energy(small, v, y[i : i + 1]), x)
        x_ce = x_pos = (x + (sign_start(twin) + 0.1 * gradient.sign()).clamp(-0.1, 0.1)).clamp(0, 1)
    if x_ce is not x:
        assert torch.allclose(loss.x_adv, x_ce, atol=1e-7)
    expected = slow_ce(small, x_ce, y)
    if chains:
        streams = twin.streams("negatives", 2, count=6)
        start, places = twin.replay.draw(2, 6)
        x_neg = slow_descent(small, start, SGLD if name in ("jem", "jeat", "sada_jem") else PROXIMAL_STEPS, streams)
        assert torch.allclose(loss.x_neg, x_neg, atol=1e-9)
        e_pos, e_neg = slow_energy(small, x_pos), slow_energy(small, loss.x_neg)
        expected = expected + 0.6 * (e_pos.mean() - e_neg.mean()) + 0.07 * ((e_pos**2).mean() + (e_neg**2).mean())
        assert torch.equal(method.replay.images[places], loss.x_neg)
    assert torch.isclose(loss.value, expected, atol=1e-9)


def slow_divergence(net, x, x_adv):
    """KL(p(. | x), p(. | x_adv)) of each image."""
    p, q = (f.exp() / f.exp().sum(1, keepdim=True) for f in (slow_logits(net, x), slow_logits(net, x_adv)))
    return torch.stack([sum(p[i, k] * (p[i, k] / q[i, k]).log() for k in range(p.shape[1])) for i in range(len(x))])


def slow_ascent(function, x, start, eps=0.1, steps=3):
    """x <- project(x + 2.5 eps / steps sign(d function / dx))."""
    x_adv = start
    for _ in range(steps):
        x_adv = x_adv + 2.5 * eps / steps * slow_gradient(function, x_adv).sign()
        x_adv = torch.max(torch.min(x_adv, x + eps), x - eps).clamp(0, 1)
    return x_adv


@pytest.mark.parametrize("ce", ["clean", "adversarial"])
def test_trades_and_weat_are_the_papers_equations(make, small, batch, ce):
    x, y = batch.x, batch.y
    twin, weat, trades = make("weat"), make("weat", ce=ce, beta=4.0), make("at", beta=4.0)
    start = (x + sign_start(twin)).clamp(0, 1)
    x_adv = slow_ascent(lambda v, i: slow_divergence(small, x[i : i + 1].detach(), v), x, start)
    loss = weat.loss(small, batch, 2)
    assert torch.allclose(loss.x_adv, x_adv, atol=1e-7) and not torch.equal(x_adv, start)
    weights = 1 / (1 + slow_energy(small, x).abs().exp()).log()
    of_image = lambda v: torch.stack([slow_ce(small, v[i : i + 1], y[i : i + 1]) for i in range(6)])  # noqa: E731
    terms = of_image(x if ce == "clean" else x_adv) + 4 * slow_divergence(small, x, x_adv)
    expected = (weights.detach() * terms).mean()
    assert torch.isclose(loss.value, expected, atol=1e-9)
    assert torch.allclose(gradients(small, loss), gradients(small, loss._replace(value=expected)), atol=1e-9)
    if ce == "clean":
        found = trades.loss(small, batch, 2)
        assert torch.isclose(found.value, terms.mean(), atol=1e-9) and torch.equal(found.x_adv, loss.x_adv)


def test_a_divergence_needs_a_random_start(make):
    still = replace(ATTACK, random_start=False)
    for name, options in (("weat", {}), ("at", {"beta": 6.0})):
        with pytest.raises(ValueError, match=r"attack.random_start: must be true"):
            make(name, attack=still, **options)


def test_eb_jdat_is_the_papers_equation(make, small, batch):
    x, y = batch.x, batch.y
    method, twin = (make("eb_jdat", clean=0.7, align=0.3, p_x=0.6, energy_l2=0.07) for _ in "ab")
    loss = method.loss(small, batch, 2)
    x_adv = slow_ascent(lambda v, i: slow_energy(small, v, y[i : i + 1]), x, (x + sign_start(twin)).clamp(0, 1))
    assert torch.allclose(loss.x_adv, x_adv, atol=1e-7)
    x_neg = slow_descent(small, twin.replay.draw(2, 6)[0], PROXIMAL_STEPS, None)
    assert torch.allclose(loss.x_neg, x_neg, atol=1e-9)
    e, e_adv, e_neg = (slow_energy(small, v) for v in (x, x_adv, x_neg))
    expected = 0.7 * slow_ce(small, x, y) + slow_ce(small, x_adv, y) + 0.6 * (e.mean() - e_neg.mean())
    expected = expected + 0.3 * (e_adv.mean() - e.mean()) + 0.07 * ((e**2).mean() + (e_neg**2).mean())
    assert torch.isclose(loss.value, expected, atol=1e-9)


def test_robust_jem_may_align_energies(make, small, batch):
    plain, aligned = make("robust_jem").loss(small, batch, 2), make("robust_jem", align=0.3).loss(small, batch, 2)
    apart = (slow_energy(small, plain.x_adv) - slow_energy(small, batch.x)).square().mean()
    assert torch.isclose(aligned.value, plain.value + 0.3 * apart, atol=1e-9)
    assert torch.equal(aligned.x_adv, plain.x_adv) and torch.equal(aligned.x_neg, plain.x_neg)
    with pytest.raises(ValueError, match="must be 0 with positives: adversarial"):
        make("robust_jem", align=0.3, positives="adversarial")


def test_attacks_of_one_step_are_wongs_and_n_fgsm(make, small, batch):
    x, y = batch.x, batch.y
    ce = lambda v, i: slow_ce(small, v, y[i : i + 1])  # noqa: E731
    fast = make("at", attack=Attack(eps=0.1, steps=1, step_size=0.125))
    start = (x + sign_start(fast)).clamp(0, 1)
    x_adv = (start + 0.125 * slow_gradient(ce, start).sign()).clamp(x - 0.1, x + 0.1).clamp(0, 1)
    assert torch.allclose(fast.loss(small, batch, 2).x_adv, x_adv, atol=1e-7)
    n_fgsm = make("at", attack=Attack(eps=0.1, steps=1, step_size=0.1, random_start=False), noise=0.2)
    start = (x + (2 * n_fgsm.streams("noise", 2, count=6).uniform(1, 4, 4) - 1) * 0.2).clamp(0, 1)
    x_adv = (start + 0.1 * slow_gradient(ce, start).sign()).clamp(0, 1)
    assert torch.allclose(n_fgsm.loss(small, batch, 2).x_adv, x_adv, atol=1e-7)
    assert 0.15 < (x_adv - x).abs().max() <= 0.3

    found = {name: right.double().mean().item() for name, right in fast.attacked(small, x, y).items()}
    by_hand = {"fgsm": x + 0.1 * slow_gradient(ce, x).sign(), "pgd": slow_attack(small, x, y, x, 0.1, 10)}
    expected = {n: (slow_logits(small, v.clamp(0, 1)).argmax(1) == y).double().mean().item() for n, v in by_hand.items()}
    assert found == expected and make("at").attacked(small, x, y) == {}


def test_igebm_is_the_papers_equation(make, small, batch):
    x, y = batch.x, batch.y
    method, twin = make("igebm"), make("igebm")
    loss = method.loss(small, batch, 2)
    start, places = twin.replay.draw(2, 6)
    y_neg = places % 3
    x_neg = slow_descent(small, start, SGLD, twin.streams("negatives", 2, count=6), y_neg)
    assert torch.allclose(loss.x_neg, x_neg, atol=1e-9) and torch.equal(method.replay.images[places], loss.x_neg)
    e_pos, e_neg = slow_energy(small, x, y), slow_energy(small, x_neg, y_neg)
    expected = e_pos.mean() - e_neg.mean() + 0.5 * ((e_pos**2).mean() + (e_neg**2).mean())
    assert torch.isclose(loss.value, expected, atol=1e-9)


def test_outlier_methods_are_the_papers_equations(make, small, batch):
    x, y, x_out = batch.x, batch.y, batch.x_out
    expected = slow_ce(small, x, y) + 0.5 * slow_to_uniform(small, x_out)
    assert torch.isclose(make("oe").loss(small, batch, 2).value, expected, atol=1e-12)

    twin = make("ratio")
    x_adv = slow_attack(small, x, y, (x + sign_start(twin)).clamp(0, 1), 0.1, 3)
    d = twin.streams("attack_out", 2, count=6)
    direction, radius = d.normal(1, 4, 4), d.uniform(1, 1, 1) ** (1 / 16) * 0.5
    start = x_out + direction / direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1) * radius
    x_out_adv = slow_l2_attack(lambda v, i: slow_to_uniform(small, v), x_out, start.clamp(0, 1), 0.5, 2)
    loss = make("ratio").loss(small, batch, 2)
    assert torch.allclose(loss.x_adv, x_adv, atol=1e-7) and torch.allclose(loss.x_neg, x_out_adv, atol=1e-6)
    kl = slow_to_uniform(small, loss.x_neg) - math.log(3)  # sum_k 1/K log(1/K / p_k)
    assert torch.isclose(loss.value, 0.5 * slow_ce(small, loss.x_adv, y) + 0.5 * kl, atol=1e-9)


def test_at_ebm_is_the_papers_equation(make, binary, batch):
    x, x_star = batch.x, batch.x_out
    f = lambda v: binary(v)[:, 0]  # noqa: E731
    for _ in range(3):  # AE, Algorithm 1: unconstrained, L2-normalised ascent of f
        gradient = slow_gradient(lambda v, i: f(v), x_star)
        x_star = torch.stack([v + 0.1 * g / g.norm() for v, g in zip(x_star, gradient, strict=True)]).clamp(0, 1)
    x_data = x
    for _ in range(2):  # the released code's descent from the data
        gradient = slow_gradient(lambda v, i: f(v), x_data)
        x_data = torch.stack([v - 0.05 * g / g.norm() for v, g in zip(x_data, gradient, strict=True)]).clamp(0, 1)
    for descent, x_pos in ((None, x), (Ascent(steps=2, step_size=0.05), x_data)):
        loss = make("at_ebm", descent=descent).loss(binary, batch, 2)
        assert torch.allclose(loss.x_neg, x_star, atol=1e-7)
        d, d_star = (1 / (1 + (-f(v)).exp()) for v in (x_pos, loss.x_neg))
        r1 = 0.3 / 2 * slow_gradient(lambda v, i: f(v), x_pos).flatten(1).pow(2).sum(1).mean()
        expected = (-d.log() - (1 - d_star).log()).mean() + r1
        assert torch.isclose(loss.value, expected, atol=1e-7)
        pairs = [float(a > b) + 0.5 * float(a == b) for a in f(x_pos) for b in f(loss.x_neg)]
        assert loss.logs["auc"].item() == pytest.approx(sum(pairs) / 36)


@pytest.mark.parametrize("discriminates", ["marginal", "conditional"])
def test_dat_is_the_papers_equation(make, small, batch, discriminates):
    x, y, x_star = batch.x, batch.y, batch.x_out
    method = make("dat", discriminates=discriminates)
    loss = method.loss(small, batch, 2)
    for _ in range(3):  # class-conditional, unconstrained, L2-normalised ascent of f(x)[y]
        gradient = slow_gradient(lambda v, i: small(v)[:, y[i]], x_star)
        x_star = torch.stack([v + 0.1 * g / g.norm() for v, g in zip(x_star, gradient, strict=True)]).clamp(0, 1)
    x_adv = slow_attack(small, x, y, (x + sign_start(method)).clamp(0, 1), 0.1, 3)
    assert torch.allclose(loss.x_neg, x_star, atol=1e-7) and torch.allclose(loss.x_adv, x_adv, atol=1e-7)
    own = None if discriminates == "marginal" else y
    d, d_star = (1 / (1 + slow_energy(small, v, own).exp()) for v in (x, x_star))
    both = torch.cat([-d.log(), -(1 - d_star).log()])  # as released: the mean over x and x* together
    assert torch.isclose(loss.value, slow_ce(small, x_adv, y) + both.mean(), atol=1e-6)
    pairs = [float(a < b) for a in slow_energy(small, x, y) for b in slow_energy(small, x_star, y)]
    assert loss.logs["auc"].item() == pytest.approx(sum(pairs) / 36)


def test_dats_gaussians_are_of_the_classes_of_its_ascents(make, small, batch):
    method = make("dat", start=("gaussians",), ascent=Ascent(steps=0, step_size=0.1))
    expected = method.gaussians().sample(batch.y, method.streams("gaussians", 2, count=6))
    assert torch.equal(method.loss(small, batch, 2).x_neg, expected.double())


def test_r1_has_a_gradient_for_the_weights(make, binary, batch):
    a, b = (gradients(binary, make("at_ebm", r1=r1).loss(binary, batch, 2)) for r1 in (0.0, 0.3))
    x = batch.x.clone().requires_grad_(True)
    (g,) = torch.autograd.grad(binary(x).sum(), x, create_graph=True)
    binary.zero_grad()
    (0.15 * (g**2).sum((1, 2, 3)).mean()).backward()
    expected = torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in binary.parameters()]
    )
    assert torch.allclose(b - a, expected, atol=1e-10) and expected.abs().sum() > 0


def slow_log_density(net, x):
    """log N(z(x); 0, I) + log |det dz/dx|, with the Jacobian written out."""

    def latent(v):
        z, _ = net.flow.inverse_and_log_det(v.view(1, 1, 4, 4) - 0.5)
        return torch.cat([part.flatten() for part in z])

    values = []
    for image in x:
        z, jacobian = latent(image.flatten()), torch.autograd.functional.jacobian(latent, image.flatten())
        values.append((-0.5 * z**2 - 0.5 * math.log(2 * math.pi)).sum() + torch.linalg.slogdet(jacobian)[1])
    return torch.stack(values)


@pytest.mark.parametrize("name", ["glow", "residual_flow"])
def test_flows_have_the_density_of_their_jacobian(make, nets, batch, name):
    net, method = nets(name), make(name)
    for _ in range(3):  # away from the identity
        loss = method.loss(net, batch, 0)
        loss.value.backward()
        with torch.no_grad():
            for parameter in net.parameters():
                if parameter.grad is not None:
                    parameter -= 0.01 * parameter.grad
                    parameter.grad = None
    u = method.streams("dequantise", 2, count=6).uniform(1, 4, 4)
    x = (255 * batch.x + u) / 256
    exact = slow_log_density(net.eval(), x)
    if name == "glow":
        assert torch.allclose(net(x)[:, 0], exact, atol=1e-8)
        assert torch.isclose(method.loss(net, batch, 2).value, -exact.mean(), atol=1e-8)
    else:  # unbiased in training
        net.train()
        values = []
        for k in range(400):
            with estimates_from(1, k):
                values.append(-net(x).mean().detach())
        values = torch.stack(values)
        error = values.std() / len(values) ** 0.5
        assert abs(values.mean() + exact.mean()) < 4 * error and 0 < error < 0.1
        assert torch.allclose(net.eval()(x)[:, 0], exact, atol=0.5)  # one probe
    bits = method.bits_per_dim(-exact.mean())
    assert bits.item() == pytest.approx(-exact.mean().item() / math.log(2) / 16 + math.log2(256))


def test_residual_blocks_log_det_in_evaluation_is_normflows(nets, make, batch):
    from normflows.flows.residual import basic_logdet_estimator

    net = nets("residual_flow")
    for parameter in net.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    block = next(m for m in net.eval().modules() if hasattr(m, "iresblock"))
    x = torch.randn(6, *net.latents[0], dtype=torch.float64).requires_grad_(True)
    probe = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(0)).to(x).expand_as(x)
    g = block.iresblock.nnet(x)
    expected = basic_logdet_estimator(g, x, LOG_DET_TERMS, probe, lambda k: 1.0, True)
    z, found = block.inverse(x)
    assert torch.allclose(z, x + g) and torch.allclose(found, expected) and expected.std() > 0.01
    slopes = [torch.autograd.grad(log_det.sum(), x)[0] for log_det in (found, expected)]
    assert torch.allclose(*slopes) and slopes[0].abs().max() > 0.01


@pytest.mark.parametrize("name", ["glow", "residual_flow"])
def test_flows_draw_what_they_invert(nets, make, batch, streams, name):
    net = nets(name).float()
    make(name).loss(net, batch._replace(x=batch.x.float()), 0)
    net.eval()
    x = net.draw(streams(5), 0.7)
    z, _ = net.flow.inverse_and_log_det(x - 0.5)
    expected = 0.7 * streams(5).normal(*net.latents[0])
    assert torch.allclose(z[0], expected, atol=1e-3)
    some = net.draw(streams(5)[torch.tensor([3])], 0.7)
    assert torch.allclose(some[0], x[3], atol=1e-4)  # independent of the batch


def test_flows_energies_have_gradients(nets, make, batch):
    for name in ("glow", "residual_flow"):
        net = nets(name)
        make(name).loss(net, batch, 0)
        net.eval()
        x = batch.x[:1].clone()
        (g,) = torch.autograd.grad(marginal(net)(x.requires_grad_(True)).sum(), x)
        d = torch.randn_like(x)
        with torch.no_grad():
            slope = (marginal(net)(x + 1e-5 * d) - marginal(net)(x - 1e-5 * d)) / 2e-5
        assert torch.isclose((g * d).sum(), slope[0], rtol=1e-4)


def test_robust_jem_may_take_adversarial_positives(make, small, batch):
    clean, adversarial = make("robust_jem"), make("robust_jem", positives="adversarial")
    a, b = clean.loss(small, batch, 1), adversarial.loss(small, batch, 1)
    assert torch.isclose(a.logs["energy"], slow_energy(small, batch.x).mean())
    assert torch.isclose(b.logs["energy"], slow_energy(small, b.x_adv).mean())


def test_jeat_may_take_more_steps(make, small, batch):
    method = make("jeat", attack_steps=4, step_size=0.03)
    x_adv = method.attack(small, batch.x, batch.y, method.streams("attack", 0, count=6))
    assert (x_adv - batch.x).abs().max() <= 0.1 + 1e-12
    one = make("jeat").attack(small, batch.x, batch.y, method.streams("attack", 0, count=6))
    energy = lambda v: slow_energy(small, v, batch.y).mean()  # noqa: E731
    assert energy(x_adv) > energy(batch.x) and energy(one) > energy(batch.x)


WRNS = {norm: WideResNet(depth=10, width=1, norm=norm) for norm in ("none", "group", "batch", "frozen", "fixed")}
WRNS |= {"spectral": WideResNet(depth=10, width=1, spectral=True)}
RESNETS = {f"resnet {norm}": ResNet(kind="resnet", depth=18, norm=norm) for norm in ("none", "batch", "frozen")}
CLASSIFIERS = sorted(name for name, kind in METHODS.items() if "wrn" in kind.networks)


def perturbed(spec, outputs):
    """A network in training mode, in float64, whose statistics, scales and shifts differ from their initial values."""
    torch.manual_seed(5)
    net = spec.build((1, 4, 4), outputs).double()
    for layer in net.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.3)
            layer.running_var.uniform_(0.5, 2)
            layer.weight.data.uniform_(0.5, 2)
            layer.bias.data.normal_(0, 0.3)
    return net


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("spec", [*WRNS.values(), *RESNETS.values()], ids=[*WRNS, *RESNETS])
def test_chains_attacks_and_loss_see_one_function(make, batch, name, spec):
    """Every pass of a chain, an attack or a term of the loss equals a separate pass of the same images in training mode:
    E(x~) at the end of a chain is E(x~) in the loss, and E(x) does not depend on which other terms are computed."""
    method = make(name)
    net, passed = perturbed(spec, method.outputs(3)), []
    handle = net.trunk.register_forward_hook(lambda trunk, given, result: passed.append((given[0], result)))
    batch = batch._replace(x_plain=batch.x.flip(3))
    loss = method.loss(net, batch, 2)
    handle.remove()
    assert net.training and len(passed) > (name not in ("standard", "noise"))
    with torch.no_grad(), Passes().sampling(net):
        for h, result in passed:
            assert torch.allclose(result, net.trunk(h), rtol=1e-6, atol=1e-8)
        logs = {key: value.item() for key, value in loss.logs.items()}
        if "ce" in logs:
            x = batch.x if loss.x_adv is None or name == "weat" else loss.x_adv
            assert logs["ce"] == pytest.approx(posterior(net, batch.y)(x).mean().item(), rel=1e-6)
        if "energy_gap" in logs:
            y_neg = make(name).replay.draw(2, 6)[1] % 3 if name == "igebm" else None
            e_neg = marginal(net) if y_neg is None else conditional(net, y_neg)
            assert logs["energy"] - logs["energy_gap"] == pytest.approx(e_neg(loss.x_neg).mean().item(), rel=1e-6)


@pytest.mark.parametrize("name", ["jempp", "robust_jem", "at", "ratio"])
def test_running_statistics_are_of_the_losss_passes_the_data_last(make, batch, name):
    net = perturbed(WideResNet(depth=10, width=1, norm="batch", bn_momentum=0.9), 3)
    layer = next(layer for layer in net.modules() if isinstance(layer, torch.nn.BatchNorm2d))
    expected = layer.running_mean.clone()
    loss = make(name).loss(net, batch, 2)
    data = {"jempp": [loss.x_neg, batch.x], "robust_jem": [loss.x_neg, loss.x_adv, batch.x], "at": [loss.x_adv]}
    with torch.no_grad():
        for x in data.get(name, [loss.x_neg, loss.x_adv]):
            expected.lerp_(net.stem(x).mean((0, 2, 3)), 0.9)
    assert torch.allclose(layer.running_mean, expected)
    assert layer.momentum == 0.9


def test_a_frozen_norm_keeps_statistics_and_a_fixed_one_scale_and_shift(make, batch):
    for norm, trained in (("frozen", True), ("fixed", False)):
        net = perturbed(WRNS[norm], 3)
        before = {key: value.clone() for key, value in net.state_dict().items()}
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        make("robust_jem").loss(net, batch, 2).value.backward()
        optimizer.step()
        changed = {key for key, value in net.state_dict().items() if not torch.equal(value, before[key])}
        assert not any("running" in key for key in changed)
        assert ("trunk.0.residual.0.weight" in changed) is trained and "trunk.0.residual.2.weight" in changed


def test_at_ebms_initialisation_is_torchs():
    """As the released code leaves it: without a norm that works, f starts near 0; torchvision's is far from it."""
    x = Streams(0, "x", ids=torch.arange(4)).uniform(3, 32, 32)
    largest = {}
    for init in ("torch", "kaiming"):
        torch.manual_seed(0)
        net = ResNet(depth=50, mean=0.473, std=0.2009, init=init).build((3, 32, 32), 1)
        convolutions = [layer for layer in net.modules() if isinstance(layer, torch.nn.Conv2d)]
        for layer in convolutions if init == "torch" else ():
            bound = layer.weight[0].numel() ** -0.5  # U(-b, b), b = 1 / sqrt(fan in)
            assert layer.weight.abs().max() <= bound
            assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
        largest[init] = net(x).abs().max().item()
    assert len(convolutions) == 53 and largest["torch"] < 0.1 < 1 < largest["kaiming"]


def test_positives_without_augmentation(make, small, batch):
    """SADA-JEM: E(x+) on the images without augmentation, CE on the augmented images."""
    plain = batch._replace(x_plain=batch.x.flip(3))
    for name in ("jem", "jempp", "robust_jem", "jeat", "eb_jdat"):
        method = make(name, positives="plain")
        assert method.plain and not make(name).plain
        ours, theirs = method.loss(small, plain, 2), make(name).loss(small, batch, 2)
        assert torch.equal(ours.logs["ce"], theirs.logs["ce"])
        assert ours.logs["energy"].item() == pytest.approx(slow_energy(small, plain.x_plain).mean().item())
        assert torch.equal(ours.x_neg, theirs.x_neg)


def test_positives_of_another_batch(make, small, batch):
    """JEM and JEM++ as released: E(x+) on images drawn apart from those of the cross-entropy."""
    apart = batch._replace(x_other=1 - batch.x)
    for name in ("jem", "jempp"):
        method = make(name, positives="other")
        assert method.other and not method.plain and not make(name).other
        loss = method.loss(small, apart, 2)
        ce = -small(batch.x).log_softmax(1)[torch.arange(len(batch.y)), batch.y].mean()
        gap = slow_energy(small, apart.x_other).mean() - slow_energy(small, loss.x_neg).mean()
        assert loss.value.item() == pytest.approx((ce + gap).item())


@pytest.mark.parametrize("name", ["jempp", "robust_jem"])
def test_chains_of_the_class_of_their_gaussian(make, small, batch, name):
    """A fresh chain at a place in the buffer has the class of that place and descends its E(x, y)."""
    method, twin = (make(name, chain_energy="conditional", buffer=Replay(size=20, reinit=1.0)) for _ in "ab")
    loss = method.loss(small, batch, 2)
    start, places = twin.replay.draw(2, 6)
    streams = Streams(3, "fresh", 2, ids=torch.arange(6))
    streams.uniform()  # this draw decides whether a chain starts afresh
    assert torch.allclose(start, twin.gaussians().sample(places % 3, streams).double())
    x_neg = slow_descent(small, start, PROXIMAL_STEPS, None, places % 3)
    assert torch.allclose(loss.x_neg, x_neg, atol=1e-9)
    assert torch.equal(method.replay.images[places], loss.x_neg)


def test_chains_grow_over_a_part_of_the_training(make):
    for name, key, full in (("jem", "steps", 3), ("robust_jem", "outer", 2)):
        method = make(name, growth=0.5)
        method.context = method.context._replace(steps=24)
        lengths = [getattr(method.grown(step), key) for step in range(24)]
        assert lengths[0] == 1 and lengths[12:] == [full] * 12 and lengths == sorted(lengths)
        assert set(lengths) == set(range(1, full + 1))
        assert make(name).grown(0) is not None and getattr(make(name).grown(0), key) == full


def test_what_recovery_makes_longer(make):
    for name, method in FIELDS.items():
        own = make(name)
        longer = own.longer(1.4)
        if "sampler" in method:
            assert longer == replace(own, sampler=own.sampler.scaled(1.4)) != own
        elif name in ("at_ebm", "dat"):
            assert longer.ascent.steps == 5 and longer == replace(own, ascent=longer.ascent)
        else:
            assert longer is own


@pytest.mark.parametrize("norm", ["none", "group", "batch"])
@pytest.mark.parametrize("name", ["jem", "jempp", "robust_jem", "jeat", "igebm", "eb_jdat"])
def test_joint_passes_are_the_passes_one_after_another(make, batch, name, norm):
    """With trained batch norm the passes stay separate, bitwise equal, and its statistics end with those of the data."""
    joint, apart = (WideResNet(depth=10, width=1, norm=norm).build((1, 4, 4), 3).double() for _ in "ab")
    apart.load_state_dict(joint.state_dict())
    counts, slopes = [], []
    for net in (joint, apart):
        method, passed = make(name), []
        method.context = method.context._replace(passes=Passes(joint=net is joint))
        method.replay.kept = batch.x.repeat(4, 1, 1, 1)[:20].clone()
        handle = net.head.register_forward_hook(lambda *given, own=passed: own.append(len(given[2])))
        slopes.append(gradients(net, method.loss(net, batch, 3)))
        counts.append(passed)
        handle.remove()
    if norm == "batch":
        assert torch.equal(*slopes) and counts[0] == counts[1]
        assert all(map(torch.equal, joint.buffers(), apart.buffers()))
    else:
        passes = 3 if name in ("robust_jem", "eb_jdat") else 2
        assert counts[0][-1] == passes * 6 and counts[1][-passes:] == [6] * passes
        assert torch.allclose(*slopes, rtol=1e-9, atol=1e-12)


def test_detectors_by_confidence_rank_as_the_maximal_probability(make, small, batch):
    p = small(batch.x).softmax(1).amax(1)
    for name in ("oe", "ratio"):
        assert torch.equal(SCORES[make(name).detector](small)(batch.x).argsort(), (-p).argsort())


@pytest.mark.parametrize("name", ["jem", "jempp", "robust_jem", "jeat", "igebm", "eb_jdat", "sada_jem"])
def test_state_is_the_replay_buffer(make, small, batch, name):
    batch = batch._replace(x_plain=batch.x)
    method, other = make(name), make(name)
    method.loss(small, batch, 0)
    state = {key: value.clone() for key, value in method.state_dict().items()}
    other.load_state_dict(state)
    assert torch.equal(method.loss(small, batch, 1).value, other.loss(small, batch, 1).value)


@pytest.mark.parametrize("name", ["jem", "jempp", "robust_jem", "jeat", "igebm", "sada_jem", "at_ebm", "dat"])
def test_a_loss_asked_again_in_its_step_changes_nothing(make, nets, batch, name):
    """As by SAM: the negatives are the same, and neither the replay buffer nor K advances twice."""
    batch, net = batch._replace(x_plain=batch.x), nets(name)
    method = make(name, **({"progressive": Progressive(iterations=1)} if name in ("at_ebm", "dat") else {}))
    for step in range(3):
        loss = method.loss(net, batch, step)
        state = {key: value.clone() for key, value in method.state_dict().items()}
        again = method.loss(net, batch, step)
        assert torch.equal(again.x_neg, loss.x_neg) and torch.equal(again.value, loss.value)
        assert all(torch.equal(value, state[key]) for key, value in method.state_dict().items())
    method.begin(method.context)
    assert method.drawn is None, "a new training begins anew"


def test_progressive_k_advances_and_resumes(make, binary, batch):
    def run(method, aucs):
        for auc in aucs:
            method.advance(torch.tensor(auc, dtype=torch.float64))
        return method.k

    slow = make("at_ebm", progressive=Progressive(iterations=4, auc=None))  # Algorithm 2: this many iterations per K
    assert [run(slow, [1.0]) for _ in range(14)] == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3]
    early = make("at_ebm", progressive=Progressive(iterations=100, auc=0.8, window=3))  # the released code
    assert run(early, [1.0, 0.9, 0.5]) == 0  # mean .8 is not above .8
    assert run(early, [1.0]) == 0 and run(early, [1.0]) == 1  # .5 1 1 is .83
    assert run(early, [1.0, 1.0]) == 1  # the window covers only the current K
    resumed = make("at_ebm", progressive=early.progressive)
    resumed.load_state_dict(early.state_dict())
    assert run(resumed, [0.9]) == run(early, [0.9]) == 2
    assert run(early, [1.0] * 50) == early.ascent.steps == 3

    one = make("at_ebm", progressive=Progressive(iterations=2))
    ks = [one.loss(binary, batch, step).logs["k"].item() for step in range(7)]
    assert ks == [0, 0, 1, 1, 2, 2, 3]
    assert torch.isclose(one.loss(binary, batch, 7).value, make("at_ebm").loss(binary, batch, 7).value)
