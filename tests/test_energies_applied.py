"""Applications of an energy, against the conditional means, posteriors and products of Gaussians."""

import pytest
import torch
from torch import Tensor

from advebm.energy import conditional, grad, marginal
from advebm.samplers import applications as a
from advebm.samplers.pgd import Ascent, Attack
from advebm.samplers.recipes import SGLD, Ascend, Draw, Targeted
from advebm.samplers.sgld import Langevin
from advebm.samplers.streams import Streams

SIDE = 4
N = SIDE * SIDE


class Quadratic:
    """E(x) = (x - mean)' P (x - mean) / 2 of images (B, 1, 4, 4), as one logit."""

    def __init__(self, seed: int = 0):
        g = torch.Generator().manual_seed(seed)
        a = torch.randn(N, N, generator=g, dtype=torch.float64)
        self.precision = a @ a.T / N + torch.eye(N, dtype=torch.float64)
        self.mean = 0.5 + 0.05 * torch.randn(N, generator=g, dtype=torch.float64)

    def __call__(self, x: Tensor) -> Tensor:
        d = x.flatten(1) - self.mean
        return -((d @ self.precision) * d).sum(1, keepdim=True) / 2


def image(seed: int, side: int = SIDE) -> Tensor:
    """(1, 1, side, side) float64, close to .5, so that no result is clamped to [0, 1]."""
    return 0.5 + 0.1 * torch.randn(1, 1, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def solved(task: a.Task, f, steps: int = 400, **more) -> list[Tensor]:
    recipe = SGLD(recipe="sgld", start="uniform", chain=Langevin(steps=steps, step_size=0.1, noise=0.0))
    return task.solve(f, recipe, None, Streams(0, ids=torch.arange(1)), **more)


def given(f: Quadratic, z: Tensor, mask: Tensor) -> Tensor:
    """The mean of a Gaussian where the coordinates in the mask are those of z."""
    known, P = mask.flatten(), f.precision
    mean = f.mean.clone()
    mean[known] = z.flatten()[known]
    gap = P[~known][:, known] @ (z.flatten() - f.mean)[known]
    mean[~known] -= torch.linalg.solve(P[~known][:, ~known], gap)
    return mean


def test_inpainting_descends_to_the_conditional_mean():
    f, z = Quadratic(), image(1)
    mask = torch.rand(SIDE, SIDE, generator=torch.Generator().manual_seed(2)) < 0.5
    found = solved(a.inpainting(z, mask), f)[-1]
    assert torch.equal(found[0, 0][mask], z[0, 0][mask])
    torch.testing.assert_close(found.flatten(), given(f, z, mask), atol=1e-8, rtol=0)


@pytest.mark.parametrize("conditional", [False, True])
def test_painting_descends_the_energy_of_the_class_in_the_region_alone(conditional):
    of_class, z = [Quadratic(1), Quadratic(2)], image(1)
    region = torch.rand(SIDE, SIDE, generator=torch.Generator().manual_seed(2)) < 0.5
    chain = Langevin(steps=400, step_size=0.1, noise=0.0)
    recipe = SGLD(recipe="sgld", start="uniform", chain=chain, conditional=conditional)
    for y in (0, 1):
        task, streams = a.painting(z, region), Streams(0, ids=torch.arange(1))
        start, found = task.solve(lambda x: torch.cat([f(x) for f in of_class], 1), recipe, torch.tensor([y]), streams)
        assert torch.equal(start, z) and torch.equal(found[0, 0][~region], z[0, 0][~region])
        torch.testing.assert_close(found.flatten(), given(of_class[y], z, ~region), atol=1e-8, rtol=0)


def test_denoising_descends_to_the_posterior_mean():
    f, z, std = Quadratic(), image(1), 0.5
    of_noise = torch.eye(N, dtype=torch.float64) / std**2
    expected = torch.linalg.solve(f.precision + of_noise, f.precision @ f.mean + of_noise @ z.flatten())
    found = solved(a.denoising(z, std, 1.0), f)[-1]
    torch.testing.assert_close(found.flatten(), expected, atol=1e-8, rtol=0)


def test_denoising_with_langevin_noise_draws_from_the_posterior():
    f, std, many = Quadratic(), 0.7, 4000
    z = image(1).expand(many, -1, -1, -1)
    of_noise = torch.eye(N, dtype=torch.float64) / std**2
    posterior = f.precision + of_noise
    mean = torch.linalg.solve(posterior, f.precision @ f.mean + of_noise @ z[0].flatten())
    chain = Langevin(steps=200, step_size=0.02, noise=(2 * 0.02) ** 0.5)  # temperature 1
    energy = a.seen(marginal(f), z, std)
    x = chain(energy, z, Streams(0, ids=torch.arange(many))).flatten(1)
    error = (posterior.inverse().diagonal() / many).sqrt()
    assert ((x.mean(0) - mean).abs() < 5 * error).all()
    torch.testing.assert_close(x.T.cov(), posterior.inverse(), atol=0.04, rtol=0)  # .02 of it by the length of the step


def test_super_resolution_descends_to_the_constrained_mean():
    f, low = Quadratic(), image(1, SIDE // 2)
    D = torch.stack([a.reduced(e.view(1, 1, SIDE, SIDE), 2).flatten() for e in torch.eye(N, dtype=torch.float64)], 1)
    P = f.precision.inverse()
    expected = f.mean + P @ D.T @ torch.linalg.solve(D @ P @ D.T, low.flatten() - D @ f.mean)  # of a Gaussian, given D x
    found = solved(a.super_resolution(low, 2), f)[-1]
    torch.testing.assert_close(a.reduced(found, 2), low, atol=1e-12, rtol=0)
    torch.testing.assert_close(found.flatten(), expected, atol=1e-8, rtol=0)


def test_translation_and_interpolation_start_where_they_should():
    f, z, other = Quadratic(), image(1), image(2)
    assert torch.equal(solved(a.translation(z), f, steps=0)[-1], z)
    for t, expected in [(0.0, z), (1.0, other), (0.25, 0.75 * z + 0.25 * other)]:
        found = solved(a.interpolation(z, other, torch.tensor([t], dtype=torch.float64)), f, steps=0)[-1]
        torch.testing.assert_close(found, expected)


def test_path_ends_where_the_sampler_does():
    f, x = Quadratic(), image(1).float()
    f.precision, f.mean = f.precision.float(), f.mean.float()
    energy = marginal(f)
    for sampler in (Langevin(steps=21, step_size=0.05, noise=0.01), Ascent(steps=7, step_size=0.01)):
        frames = a.path(sampler, energy, x, 5, Streams(0, ids=torch.arange(1)))
        assert len(frames) == 6
        torch.testing.assert_close(frames[-1], sampler(energy, x, Streams(0, ids=torch.arange(1))), atol=1e-6, rtol=0)
    attack = Attack(eps=0.05, steps=5, norm="l2", random_start=False)  # a ball around x, not around the image before
    assert torch.equal(a.path(attack, energy, x, 5)[-1], attack(energy, x))


def test_and_is_the_product_of_gaussians():
    f, g = Quadratic(1), Quadratic(2)
    expected = torch.linalg.solve(f.precision + g.precision, f.precision @ f.mean + g.precision @ g.mean)
    chain = Langevin(steps=400, step_size=0.05, noise=0.0)
    x = chain(a.every(marginal(f), marginal(g)), image(1))
    torch.testing.assert_close(x.flatten(), expected, atol=1e-8, rtol=0)


def test_or_adds_densities_and_not_divides_by_one():
    x, e, g = image(3), marginal(Quadratic(1)), marginal(Quadratic(2))
    torch.testing.assert_close((-a.either(e, g)(x)).exp(), (-e(x)).exp() + (-g(x)).exp())
    torch.testing.assert_close((-a.every(e, a.without(g, 0.5))(x)).exp(), (-e(x)).exp() / (-g(x)).exp().sqrt())


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("3", lambda e: e["3"]),
        ("3 and not 8", lambda e: e["3"] - 2 * e["8"]),
        ("3 or (b2 and 8)", lambda e: -torch.logaddexp(-e["3"], -(e["b2"] + e["8"]))),
        (" not (3 or 8) and b2", lambda e: e["b2"] + 2 * torch.logaddexp(-e["3"], -e["8"])),
    ],
)
def test_composition_of_words(expression, expected):
    values = {"3": torch.tensor([0.3]), "8": torch.tensor([0.8]), "b2": torch.tensor([-0.2])}
    found = a.composition(expression, lambda word: lambda x: values[word], weight=2.0)(torch.zeros(1))
    torch.testing.assert_close(found, expected(values))


@pytest.mark.parametrize(
    "expression", ["", "3 +", "3 + 8", "f(3)", "3.5", "'3'", "3 < 8", "(" * 500, "__import__('os')", "3\n8"]
)
def test_other_expressions_are_refused(expression):
    with pytest.raises(ValueError, match="such as '3 and not 8'"):
        a.composition(expression, lambda word: lambda x: x)


def test_each_recipe_gives_its_sampler_and_energy(wrn, images):
    images = images[:8].pixels("cpu")
    chain, attack = Langevin(steps=1, step_size=0.1, noise=0.0), Attack(eps=0.1, steps=1)
    y = torch.arange(len(images)) % wrn.outputs
    sampler, of = a.parts(SGLD(recipe="sgld", start="uniform", chain=chain, conditional=True))
    assert sampler is chain
    assert torch.equal(of(wrn, y)(images), conditional(wrn, y)(images))
    _, of = a.parts(Targeted(recipe="targeted", start="gaussians", attack=attack))
    torch.testing.assert_close(of(wrn, y)(images), -wrn(images).log_softmax(1).gather(1, y[:, None])[:, 0])
    _, of = a.parts(Ascend(recipe="ascent", start="outliers", ascent=Ascent(steps=1, step_size=0.1)))
    torch.testing.assert_close(of(wrn, y)(images), -wrn(images).logsumexp(1))
    with pytest.raises(ValueError, match="no chain"):
        a.parts(Draw(recipe="draw"))


def test_the_known_part_has_no_gradient(wrn, images):
    images = images[:8].pixels("cpu")
    mask = torch.zeros(images.shape[-2:], dtype=torch.bool)
    mask[:2] = True
    slope = grad(a.completed(marginal(wrn), a.known_pixels(images, mask)), torch.rand_like(images))
    assert not slope[:, :, mask].any() and slope[:, :, ~mask].any()
