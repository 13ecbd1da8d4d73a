"""The Metropolis-adjusted chain, on a Gaussian, whose distribution is known."""

import pytest
import torch

from advebm.samplers.metropolis import adjusted, shorter, temperature
from advebm.samplers.sgld import Langevin
from advebm.samplers.streams import Streams

DEVIATION, MANY = 0.3, 4000


def energy(x):
    """N(.5, .3^2) of each pixel, at temperature .2."""
    return 0.2 * ((x - 0.5) / DEVIATION).square().sum((1, 2, 3)) / 2


def chain(step_size, steps=300, **more):
    return Langevin(steps=steps, step_size=step_size, noise=(2 * 0.2 * step_size) ** 0.5, **more)


def spread(sampler, x=None):
    x = torch.full((MANY, 1, 1, 2), 0.5) if x is None else x
    x = sampler(energy, x, Streams(0, ids=torch.arange(MANY)))
    return x.std().item(), x


@pytest.mark.parametrize("more", [{}, {"clamp_grad": 0.3}])
def test_it_has_the_distribution_of_the_energy_at_any_step_size(more):
    for step_size in (0.02, 0.4):
        assert [temperature(c) for c in (chain(step_size), shorter(chain(step_size), 0.1))] == pytest.approx([0.2, 0.2])
        found, x = spread(lambda e, x, s, size=step_size: adjusted(chain(size, **more), e, x, s)[0])
        assert found == pytest.approx(DEVIATION, abs=4 * DEVIATION / (2 * 2 * MANY) ** 0.5)
        assert x.mean().item() == pytest.approx(0.5, abs=4 * DEVIATION / (2 * MANY) ** 0.5)


def test_a_chain_that_clips_has_the_distribution_within_the_box():
    """Of a Gaussian around .2 cut at 0 and 1, by its mean (Johnson et al. 1994, Eq. 13.134)."""
    steps = chain(0.05, 400, clip=True)
    x, taken = adjusted(
        steps, lambda x: energy(x + 0.3), torch.full((MANY, 1, 1, 2), 0.5), Streams(0, ids=torch.arange(MANY))
    )
    normal = torch.distributions.Normal(0.0, 1.0)
    low, high = (torch.tensor((end - 0.2) / DEVIATION) for end in (0.0, 1.0))
    share = normal.cdf(high) - normal.cdf(low)
    expected = 0.2 + DEVIATION * (normal.log_prob(low).exp() - normal.log_prob(high).exp()) / share
    assert x.min() >= 0 and x.max() <= 1 and 0.5 < taken.mean() < 1
    assert x.mean().item() == pytest.approx(expected.item(), abs=4 * x.std().item() / (2 * MANY) ** 0.5)


def test_the_chain_itself_is_wider_the_longer_its_steps():
    """Its variance is s T / (1 - (1 - s c)^2) * 2 for an energy c x^2 / 2."""
    curvature, step_size = 0.2 / DEVIATION**2, 0.4
    expected = (2 * 0.2 * step_size / (1 - (1 - step_size * curvature) ** 2)) ** 0.5
    assert spread(chain(step_size))[0] == pytest.approx(expected, rel=0.02)
    assert expected > 1.3 * DEVIATION


def test_small_steps_are_taken_and_long_ones_are_not():
    x, streams = torch.full((500, 1, 1, 2), 0.5), Streams(0, ids=torch.arange(500))
    taken = [adjusted(chain(size, 50), energy, x, streams)[1].mean() for size in (1e-4, 0.1, 0.4, 10.0)]
    assert taken[0] > 0.999 and taken[0] > taken[1] > taken[2] > taken[3] and taken[3] < 0.05
