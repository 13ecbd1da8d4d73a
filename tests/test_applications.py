"""The measurement of applications."""

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from advebm.data.gaussians import Gaussians
from advebm.evaluation import applications as a
from advebm.samplers.streams import Streams

SHAPE = (1, 4, 4)


@pytest.fixture
def gaussians():
    g = torch.Generator().manual_seed(0)
    factor = 0.1 * torch.randn(2, 16, 16, generator=g).tril() + 0.1 * torch.eye(16)
    return Gaussians(0.5 + 0.2 * torch.randn(2, 16, generator=g), factor, SHAPE)


@pytest.mark.parametrize("task", ["inpainting", "denoising", "super-resolution"])
def test_the_expectation_of_class_gaussians_is_the_least_squares_estimate(gaussians, task):
    """By importance: draws of the mixture, weighed by how likely they make what is seen, a slow way to E[x | z]."""
    problem = a.problems(a.Applications(features="judge"), SHAPE)[task]
    noise, draws = 0.4, 400_000  # what is seen without noise gets some, or no draw would fit it
    problem = a.Problem(observe=problem.observe, std=noise, task=problem.task, plain={})
    ids, y = torch.arange(draws), torch.arange(draws) % 2
    z0 = Streams(0, ids=ids).normal(16)
    x = torch.stack([gaussians.mean[k] + z0 @ gaussians.factor[k].T for k in (0, 1)])[y, ids].view(-1, *SHAPE)
    z = problem.seen(x[:3], "test")
    seen = problem.observe(x).flatten(1)
    found = a.expected(gaussians, problem, z)
    for i in range(3):
        gap = (seen - z[i].flatten())[:, problem.observe(torch.ones(1, *SHAPE)).flatten() != 0]
        weight = (-gap.square().sum(1) / (2 * noise**2)).double().softmax(0)
        count = 1 / weight.square().sum()  # of draws that matter
        estimate = (weight[:, None] * x.flatten(1).double()).sum(0)
        spread = (weight[:, None] * (x.flatten(1) - estimate).square()).sum(0).sqrt()
        assert count > 300 and ((found[i].flatten() - estimate).abs() < 5 * spread / count.sqrt()).all()


def test_without_noise_the_known_part_is_kept(gaussians):
    for name in ("inpainting", "super-resolution"):
        problem = a.problems(a.Applications(features="judge"), SHAPE)[name]
        x = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(1))
        found = a.expected(gaussians, problem, problem.observe(x))
        assert torch.allclose(problem.observe(found), problem.observe(x), atol=1e-4)


def test_psnr_is_that_of_scikit_image():
    x, y = torch.rand(2, 6, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    expected = [peak_signal_noise_ratio(q.numpy(), p.numpy(), data_range=1) for p, q in zip(x, y, strict=True)]
    assert a.psnr(x, y).numpy() == pytest.approx(np.array(expected), rel=1e-5)
    assert a.psnr(x, x).tolist() == [100.0] * 6


def test_sides_that_the_factor_does_not_divide_have_no_super_resolution():
    assert list(a.problems(a.Applications(features="judge"), (3, 9, 8))) == ["inpainting", "denoising"]
