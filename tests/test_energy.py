import torch

from advebm import energy

LOGITS = torch.tensor([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]], dtype=torch.float64)
Y = torch.tensor([2, 0])


def test_energies_are_what_the_paper_defines():
    assert torch.allclose(energy.marginal.of(LOGITS), -LOGITS.exp().sum(1).log())
    assert torch.equal(energy.conditional.of(LOGITS, Y), torch.tensor([-0.5, 0.0], dtype=torch.float64))


def test_cross_entropy_is_joint_minus_marginal():
    difference = energy.conditional.of(LOGITS, Y) - energy.marginal.of(LOGITS)
    assert torch.allclose(energy.posterior.of(LOGITS, Y), difference)


def test_an_energy_of_images_is_that_of_their_logits(small):
    x, y = torch.rand(3, 1, 4, 4, dtype=torch.float64), torch.tensor([2, 0, 1])
    for name, more in (("marginal", ()), ("conditional", (y,)), ("posterior", (y,)), ("undecided", ()), ("unlit", ())):
        e = getattr(energy, name)
        assert torch.equal(e(small, *more)(x), e.of(small(x), *more)), name
        assert torch.equal(energy.negative(e(small, *more))(x), -e.of(small(x), *more)), name
    for real in (True, False):
        assert torch.equal(energy.binary(small, real=real)(x), energy.binary.of(small(x), real=real))


def test_grad_is_each_images_own(small):
    x = torch.rand(3, 1, 4, 4, dtype=torch.float64)
    together = energy.grad(energy.marginal(small), x)
    alone = torch.cat([energy.grad(energy.marginal(small), x[i : i + 1]) for i in range(3)])
    assert torch.allclose(together, alone)
    step = torch.zeros_like(x)
    step[1, 0, 2, 3] = 1e-6
    rise = (energy.marginal(small)(x + step) - energy.marginal(small)(x - step))[1] / 2e-6
    assert torch.isclose(together[1, 0, 2, 3], rise, rtol=1e-6)


def test_an_unsaturated_cross_entropy_is_that_of_float64():
    logits = torch.tensor([[30.0, 1.0, 2.0], [5.0, 1.0, 2.0], [1.0, 60.0, 2.0]]).requires_grad_(True)
    y = torch.tensor([0, 2, 1])
    ours = energy.unsaturated.of(logits, y)
    wanted = energy.posterior.of(logits.detach().double(), y)
    assert torch.allclose(ours.double(), wanted, rtol=1e-5) and ours.gt(0).all()
    assert torch.autograd.grad(ours.sum(), logits)[0].abs().amax(1).gt(0).all(), "the gradient must not vanish"
    assert energy.posterior.of(logits, y)[0] == 0, "the ordinary cross-entropy rounds to 0 here"
    sure = energy.unconfident.of(logits.detach())
    assert torch.equal(sure.argsort(), torch.tensor([2, 0, 1]))
