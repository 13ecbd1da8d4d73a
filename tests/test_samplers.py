from dataclasses import replace
from functools import partial
from itertools import islice

import foolbox
import numpy as np
import pytest
import torch
from scipy import stats

from advebm.bench.plain import PlainAscent, PlainAttack, PlainLangevin
from advebm.energy import grad, marginal, negative, posterior
from advebm.evaluation.steps import continued
from advebm.samplers.applications import path
from advebm.samplers.buffer import Buffer, Replay, uniform_start
from advebm.samplers.norms import NORMS
from advebm.samplers.pgd import Ascent, Attack, pgd
from advebm.samplers.proximal import proximal
from advebm.samplers.sgld import Langevin, sgld
from advebm.samplers.streams import Streams


def test_streams_are_normal_and_uniform(streams):
    normal = streams(400).normal(300).flatten().double().numpy()
    assert stats.kstest(normal, "norm").pvalue > 1e-3
    uniform = streams(400).uniform(300).flatten().double().numpy()
    assert stats.kstest(uniform, "uniform").pvalue > 1e-3
    counts = torch.bincount(streams(400).integers(7, 300).flatten(), minlength=7).numpy()
    assert stats.chisquare(counts).pvalue > 1e-3
    neighbours = np.corrcoef(streams(2000).normal(50).double().numpy())[np.triu_indices(2000, 1)]
    assert abs(neighbours.mean()) < 1e-3 and abs(neighbours.std() * 50**0.5 - 1) < 0.05


def test_a_stream_is_its_images_own(streams):
    whole, part = streams(8), streams(8)[torch.tensor([5, 2])]
    for draw in (lambda s: s.normal(2, 3), lambda s: s.uniform(4), lambda s: s.integers(9, 2)):
        assert torch.equal(draw(whole)[[5, 2]], draw(part))
    assert not torch.equal(Streams(0, "a", ids=torch.arange(3)).normal(4), Streams(0, "b", ids=torch.arange(3)).normal(4))


def test_sgld_on_a_quadratic_has_the_closed_forms_mean_and_variance(streams):
    """E(x) = (x - 2)^2 / (2 s): x_k is Gaussian with mean 2 + r^k (x_0 - 2) and variance noise^2 (1 - r^2k) / (1 - r^2),
    r = 1 - step / s."""
    s, step, noise, steps = 0.5, 0.1, 0.3, 12
    x = sgld(
        lambda x: ((x - 2) ** 2 / (2 * s)).flatten(1).sum(1),
        torch.zeros(4000, 1, 2, 2),
        steps=steps,
        step_size=step,
        noise=noise,
        streams=streams(4000),
    ).double()
    r = 1 - step / s
    mean, variance = 2 - 2 * r**steps, noise**2 * (1 - r ** (2 * steps)) / (1 - r**2)
    count = x.numel()
    assert abs(x.mean() - mean) < 4 * (variance / count) ** 0.5
    assert abs(x.var() / variance - 1) < 4 * (2 / count) ** 0.5


def test_langevin_at_temperature_one_samples_the_density(streams):
    """step_size a/2 and noise sqrt(a): the stationary law of E(x) = x^2 / 2 is N(0, 1), up to O(a)."""
    a = 0.05
    x = sgld(
        lambda x: (x**2 / 2).flatten(1).sum(1),
        torch.zeros(4000, 1, 1, 1),
        steps=200,
        step_size=a / 2,
        noise=a**0.5,
        streams=streams(4000),
    )
    assert abs(x.var() - 1 / (1 - a / 4)) < 0.09


def test_a_chain_does_not_depend_on_its_batch(wrn, streams):
    wrn.eval().requires_grad_(False)
    start = streams(10).uniform(1, 8, 8)

    def chain(part):
        return sgld(marginal(wrn), start[part], steps=5, step_size=0.5, noise=0.01, streams=streams(10)[part])

    whole = chain(torch.arange(10))
    parts = torch.cat([chain(part) for part in torch.arange(10).split(3)])
    assert torch.allclose(whole, parts, atol=1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_norms_project_and_start_inside(norm, streams):
    ball, eps = NORMS[norm], 0.3

    def length(d):
        return d.flatten(1).norm(dim=1, p=float("inf") if norm == "linf" else 2)

    start = ball.random_start(torch.Size((500, 1, 2, 2)), eps, streams(500))
    assert length(start).max() <= eps * 1.00001 and length(start).max() > 0.95 * eps
    assert abs(start.mean()) < 0.02
    outside = streams(500).normal(1, 2, 2) + 2
    assert torch.allclose(length(ball.project(outside, eps)), torch.full((500,), eps), atol=1e-6)
    assert torch.allclose(ball.project(start, eps), start, atol=1e-6)
    assert torch.allclose(length(ball.direction(outside)), torch.ones(500))


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e-13, 1.0, 1e30])
def test_the_steepest_direction_of_any_gradient_has_length_1(scale):
    torch.manual_seed(0)
    gradient = torch.randn(5, 1, 4, 4)
    direction = NORMS["l2"].direction(gradient * scale)
    assert torch.allclose(direction.flatten(1).norm(dim=1), torch.ones(5))
    if scale > 1e-40:  # at 1e-40 numbers are subnormal and lose digits
        assert torch.allclose(direction, NORMS["l2"].direction(gradient), rtol=1e-5)
    assert NORMS["l2"].direction(torch.zeros(1, 1, 4, 4)).eq(0).all()


@pytest.mark.parametrize(("norm", "kind"), [("linf", "LinfPGD"), ("l2", "L2PGD")])
def test_pgd_is_foolboxs(wrn, streams, norm, kind):
    wrn.eval()
    x, y = streams(6).uniform(1, 8, 8), torch.arange(6) % 3
    ours = pgd(negative(posterior(wrn, y)), x, steps=7, step_size=0.03, eps=0.1, norm=norm)
    attack = getattr(foolbox.attacks, kind)(abs_stepsize=0.03, steps=7, random_start=False)
    raised = posterior(wrn, y)(ours) - posterior(wrn, y)(x)
    assert torch.allclose(ours, attack.run(foolbox.PyTorchModel(wrn, bounds=(0, 1)), x, y, epsilon=0.1), atol=1e-6)
    assert (raised > 0).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_with_momentum_returns_the_best_of_its_points(wrn, streams, norm):
    """RATIO's attack, slowly: each image alone, its momentum in NumPy, the least energy among all its points."""
    wrn.double().eval()
    x, y = streams(6).uniform(1, 8, 8).double(), torch.arange(6) % 3
    centre = x.roll(1, 0)  # steps go past it

    def energy(v, images=slice(None)):
        far = (v - centre[images]).square().flatten(1).sum(1)
        return far - posterior(wrn, y[images])(v)

    eps, steps, step_size = (0.4, 6, 0.2) if norm == "linf" else (4.0, 6, 1.5)
    numbers = {"steps": steps, "step_size": step_size, "eps": eps, "norm": norm}
    ours = pgd(energy, x, **numbers, momentum=0.9, best=True)
    chosen = set()
    for i in range(6):
        alone = partial(energy, images=slice(i, i + 1))
        point, velocity, points = x[i].numpy(), np.zeros((1, 8, 8)), []
        for _ in range(steps + 1):
            image = torch.from_numpy(point)[None]
            points.append((alone(image).item(), point))
            slope = grad(alone, image)[0].numpy()
            velocity = 0.9 * velocity + slope / np.abs(slope).sum()
            away = velocity / np.linalg.norm(velocity) if norm == "l2" else np.sign(velocity)
            d = point - step_size * away - x[i].numpy()
            d = d * min(1, eps / np.linalg.norm(d)) if norm == "l2" else np.clip(d, -eps, eps)
            point = np.clip(x[i].numpy() + d, 0, 1)
        best = min(range(steps + 1), key=lambda k: points[k][0])
        chosen.add(best)
        assert np.allclose(ours[i].numpy(), points[best][1], atol=1e-9)
    assert chosen - {0, steps}, "some images' best point is neither the first nor the last"
    found = {best: energy(pgd(energy, x, **numbers, momentum=0.9, best=best)) for best in (True, False)}
    assert (found[True] <= found[False]).all() and (found[True] <= energy(x)).all()
    assert torch.allclose(PlainAttack(**numbers, random_start=False, momentum=0.9, best=True)(energy, x), ours)


@pytest.mark.parametrize("side", [8, 256])
def test_a_chain_has_a_draw_of_noise_a_step_however_many_are_drawn_at_once(streams, side):
    flat = lambda x: 0 * x.flatten(1).sum(1)  # noqa: E731
    moved = sgld(flat, torch.zeros(5, 1, side, side), steps=11, step_size=1.0, noise=0.5, streams=streams(5))
    again = streams(5)
    assert torch.allclose(moved, 0.5 * sum(again.normal(1, side, side) for _ in range(11)), atol=1e-5)


def test_a_chain_with_momentum_is_its_recursion(streams):
    """On E(x) = |x|^2 / 2 without noise: v <- .8 v + x, x <- x - .1 v; in pieces of a chain it is that of the whole one."""
    chain, x = Langevin(steps=6, step_size=0.1, noise=0.0, momentum=0.8), streams(3).normal(1, 2, 2)
    energy = lambda v: (v**2 / 2).flatten(1).sum(1)  # noqa: E731
    expected, v = [x], torch.zeros_like(x)
    for _ in range(6):
        v = 0.8 * v + expected[-1]
        expected.append(expected[-1] - 0.1 * v)
    assert torch.allclose(chain(energy, x), expected[6], atol=1e-6)
    noisy = replace(chain, noise=0.1)
    found = continued(noisy, [2, 6], energy, x, streams(3))
    assert torch.equal(found[6], noisy(energy, x, streams(3))) and torch.equal(found[0], x)
    assert torch.equal(found[2], replace(noisy, steps=2)(energy, x, streams(3)))
    assert torch.equal(path(noisy, energy, x, 3, streams(3))[-1], found[6])


def test_an_ascent_goes_as_far_as_its_ball_lets_it(streams):
    x = 0.4 + 0.1 * streams(4).uniform(1, 8, 8)
    for eps, far in ((None, 0.5), (0.2, 0.2)):
        ascent = Ascent(steps=5, step_size=0.1, eps=eps)
        moved = ascent(lambda v: -v.flatten(1).sum(1), x)
        assert torch.allclose((moved - x).flatten(1).norm(dim=1), torch.full((4,), far))
        assert torch.allclose(moved, PlainAscent(**vars(ascent))(lambda v: -v.flatten(1).sum(1), x))


def test_attack_of_radius_0_moves_nothing(wrn, streams):
    x = streams(4).uniform(1, 8, 8)
    for norm in NORMS:
        assert torch.equal(Attack(eps=0.0, steps=3, norm=norm)(marginal(wrn), x, streams(4)), x)


def test_fused_proximal_is_the_m_by_n_loop(small):
    x = torch.rand(5, 1, 4, 4, dtype=torch.float64)
    numbers = {"outer": 4, "inner": 5, "step_size": 0.02, "clamp_grad": 0.05}
    loop = proximal(small.stem, marginal(small.body), x, fused=False, **numbers)
    fused = proximal(small.stem, marginal(small.body), x, fused=True, **numbers)
    assert (loop - x).abs().max() > 1e-3
    assert torch.allclose(loop, fused, atol=1e-12)


def test_proximal_with_one_inner_step_is_clamped_descent(small):
    x = torch.rand(5, 1, 4, 4, dtype=torch.float64)
    ours = proximal(small.stem, marginal(small.body), x, outer=3, inner=1, step_size=0.3, clamp_grad=0.02, fused=False)
    for _ in range(3):
        x = (x - 0.3 * grad(marginal(small), x).clamp(-0.02, 0.02)).clamp(0, 1)
    assert torch.allclose(ours, x, atol=1e-12)


def test_buffer_keeps_chains_and_starts_some_afresh():
    buffer = Buffer(Replay(size=50, reinit=0.5), uniform_start((1, 2, 2), "cpu"), 0, "cpu")
    before = buffer.images.clone()
    x, places = buffer.draw(0, 20)
    assert len(places.unique()) == 20
    fresh = (x != before[places]).flatten(1).any(1)
    assert 3 <= fresh.sum() <= 17
    buffer.store(places, x + 1)
    assert torch.equal(buffer.images[places], x + 1)
    others = torch.ones(50, dtype=torch.bool)
    others[places] = False
    assert torch.equal(buffer.images[others], before[others])
    noise = Streams(0, "negatives", 0, ids=torch.arange(20)).normal(1, 2, 2)[fresh]
    assert abs(np.corrcoef(x[fresh].flatten(), noise.abs().flatten())[0, 1]) < 0.5  # starts and noise share no random bits
    with pytest.raises(ValueError, match="too few for a batch"):
        buffer.draw(0, 51)


def test_half_of_a_buffers_images_are_mirrored_when_drawn():
    start = lambda streams, places: streams.uniform(1, 4, 4)  # noqa: E731
    plain, mirrored = (Buffer(Replay(size=400, reinit=0.0, flip=flip), start, 0, "cpu") for flip in (False, True))
    (x, places), (z, same) = plain.draw(3, 200), mirrored.draw(3, 200)
    assert torch.equal(places, same)
    kept, turned = ((z == y).flatten(1).all(1) for y in (x, x.flip(3)))
    assert torch.equal(kept, ~turned) and 70 < turned.sum() < 130
    assert torch.equal(mirrored.draw(3, 200)[0], z) and torch.equal(mirrored.images, plain.images)


def quadratic(x):
    """E(x) = |x|^2 / 2, whose gradient is x."""
    return (x**2 / 2).flatten(1).sum(1)


def test_a_normalised_chain_moves_by_step_size(streams):
    """On |x|^2 / 2 it moves straight to 0, where the gradient is 0 and nothing moves."""
    x = 3 * streams(5).normal(1, 2, 2)
    chain = Langevin(steps=1, step_size=0.1, noise=0.0, normalised=True)
    length = x.flatten(1).norm(dim=1)
    assert torch.allclose((chain(quadratic, x) - x).flatten(1).norm(dim=1), torch.full((5,), 0.1), atol=1e-6)
    moved = replace(chain, steps=4)(quadratic, x)
    assert torch.allclose(moved, x * (1 - 0.4 / length).view(-1, 1, 1, 1), atol=1e-6)
    assert torch.equal(chain(quadratic, 0 * x), 0 * x)


def test_a_preconditioned_chain_is_a_plain_one_of_other_steps_where_the_gradient_is_constant(streams):
    """E(x) = sum c x: V = c^2 in every step, so G = 1 / (1e-5 + |c|) scales the steps and sqrt(G) the noise."""
    c = torch.tensor([0.01, 0.1, 1.0, 30.0]).view(1, 1, 2, 2)
    chain = Langevin(steps=7, step_size=0.2, noise=0.3, precondition=0.9)
    x = chain(lambda x: (c * x).flatten(1).sum(1), torch.zeros(4000, 1, 2, 2), streams(4000)).double()
    G = 1 / (1e-5 + c)
    variance = 7 * 0.3**2 * G
    assert ((x.mean(0) + 7 * 0.2 * G * c).abs() < 4 * (variance / 4000).sqrt()).all()
    assert ((x.var(0) / variance - 1).abs() < 4 * (2 / 4000) ** 0.5).all()


def test_a_preconditioned_chain_has_the_distribution_of_a_quadratic_of_unequal_curvatures(streams):
    """E(x) = sum c x^2 / 2 at temperature T = noise^2 / (2 step_size): each pixel's variance is near T / c, whatever its
    curvature, where V, which nears its mean, c^2 T / c, is nearly fixed: then it is T / (c (1 - step_size G c / 2))."""
    c, step_size, T = torch.tensor([1.0, 100.0]).view(1, 1, 1, 2), 0.02, 1.0
    chain = Langevin(steps=1000, step_size=step_size, noise=(2 * T * step_size) ** 0.5, precondition=0.999)
    start = (T / c).sqrt() * streams(400).normal(1, 1, 2)
    x = chain(lambda x: (c * x**2 / 2).flatten(1).sum(1), start, streams(400))
    expected = T / c / (1 - step_size * (c / T).sqrt() / 2)
    assert torch.allclose(x.var(0), expected[0], rtol=4 * (2 / 400) ** 0.5)


def test_annealed_noise_has_the_variance_of_its_levels(streams):
    """Where the energy is flat the variances of the steps add up: .5, .5^(2/3) .1^(1/3), .5^(1/3) .1^(2/3), .1, squared."""
    flat = lambda x: 0 * x.flatten(1).sum(1)  # noqa: E731
    chain = Langevin(steps=4, step_size=1.0, noise=0.5, noise_last=0.1)
    x = chain(flat, torch.zeros(4000, 1, 2, 2), streams(4000)).double()
    levels = [0.5, 0.5 ** (2 / 3) * 0.1 ** (1 / 3), 0.5 ** (1 / 3) * 0.1 ** (2 / 3), 0.1]
    assert abs(x.var() / sum(level**2 for level in levels) - 1) < 4 * (2 / x.numel()) ** 0.5
    one = [replace(chain, steps=1, noise_last=last)(flat, torch.zeros(3, 1, 2, 2), streams(3)) for last in (0.1, None)]
    assert torch.equal(*one)


CHANGED = [{"normalised": True}, {"precondition": 0.9}, {"precondition": 0.0}, {"noise_last": 0.01}, {"momentum": 0.8}]
CHANGED += [{"normalised": True, "momentum": 0.8, "noise_last": 0.05}, {"precondition": 0.9, "momentum": 0.8}]


@pytest.mark.parametrize("change", CHANGED, ids=str)
def test_a_changed_chain_is_the_slow_one(wrn, streams, change):
    """Image by image in NumPy, with the same noise, and without noise that of `advebm bench`."""
    wrn.double().eval()
    energy, x = marginal(wrn), streams(4).uniform(1, 8, 8).double()
    chain = Langevin(steps=9, step_size=0.1, noise=0.05, clamp_grad=0.02, clip=True, **change)
    noise = streams(4).normal(9, 1, 8, 8).double().numpy()
    found = chain(energy, x, streams(4))
    for i in range(4):
        z, v, squares = x[i].numpy(), 0.0, []
        for k in range(9):
            g = grad(energy, torch.from_numpy(z)[None])[0].numpy().clip(-0.02, 0.02)
            if chain.normalised:
                g = g / np.sqrt((g * g).sum())
            metric = 1.0
            if chain.precondition is not None:
                squares.append(g * g)
                weights = [chain.precondition**age for age in range(k, -1, -1)]
                metric = 1 / (1e-5 + np.sqrt(np.average(squares, axis=0, weights=weights)))
            v = chain.momentum * v + metric * g
            level = 0.05 if chain.noise_last is None else np.geomspace(0.05, chain.noise_last, 9)[k]
            z = (z - 0.1 * v + level * np.sqrt(metric) * noise[i, k]).clip(0, 1)
        assert np.allclose(found[i].numpy(), z, atol=1e-6)
    quiet = {name: value for name, value in vars(chain).items() if name not in ("noise", "noise_last")}
    assert torch.allclose(PlainLangevin(noise=0.0, **quiet)(energy, x), Langevin(noise=0.0, **quiet)(energy, x), atol=1e-6)


@pytest.mark.parametrize("change", CHANGED, ids=str)
def test_the_images_on_the_way_are_those_of_the_chain(wrn, streams, change):
    """`path` has those of one chain, whose noise falls over all of its steps; `continued` of a chain of each length."""
    chain, energy, x = Langevin(steps=6, step_size=0.1, noise=0.05, **change), marginal(wrn.eval()), torch.rand(3, 1, 8, 8)
    found = continued(chain, [2, 6], energy, x, streams(3))
    for length in (0, 2, 6):
        assert torch.equal(found[length], replace(chain, steps=length)(energy, x, streams(3)))
    frames = path(chain, energy, x, 3, streams(3))
    assert torch.equal(frames[0], x) and torch.equal(frames[3], found[6])
    first = list(islice(chain.each(energy, x, streams(3)), 2))
    assert torch.equal(frames[1], first[1]) and (chain.noise_last is not None or torch.equal(first[1], found[2]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normalised": True, "precondition": 0.9}, "normalised: must be false with precondition"),
        ({"noise_last": 0.2}, "noise_last: must be at most noise, 0.1"),
        ({"noise": 0.0, "noise_last": 0.1}, "noise_last: must be at most noise, 0.0"),
    ],
)
def test_options_of_a_chain_that_make_no_sense_together(change, message):
    with pytest.raises(ValueError, match=message):
        Langevin(**{"steps": 3, "step_size": 0.1, "noise": 0.1} | change)
