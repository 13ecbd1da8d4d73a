import torch

from advebm import energy

LOGITS = torch.tensor([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]], dtype=torch.float64)
Y = torch.tensor([2, 0])
X = torch.zeros(2, 1, 1, 1)


def test_energies_are_what_the_paper_defines():
    f = energy.given(LOGITS)
    assert torch.allclose(energy.marginal(f)(X), -LOGITS.exp().sum(1).log())
    assert torch.equal(energy.conditional(f, Y)(X), torch.tensor([-0.5, 0.0], dtype=torch.float64))


def test_cross_entropy_is_joint_minus_marginal():
    f = energy.given(LOGITS)
    difference = energy.conditional(f, Y)(X) - energy.marginal(f)(X)
    assert torch.allclose(energy.posterior(f, Y)(X), difference)
    assert torch.equal(energy.negative(energy.posterior(f, Y))(X), -energy.posterior(f, Y)(X))


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
    ours = energy.unsaturated(energy.given(logits), y)(X)
    wanted = energy.posterior(energy.given(logits.detach().double()), y)(X)
    assert torch.allclose(ours.double(), wanted, rtol=1e-5) and ours.gt(0).all()
    assert torch.autograd.grad(ours.sum(), logits)[0].abs().amax(1).gt(0).all(), "a gradient where softmax is 1"
    assert energy.posterior(energy.given(logits), y)(X)[0] == 0, "which the usual one loses"
    sure = energy.unconfident(energy.given(logits.detach()))(X)
    assert torch.equal(sure.argsort(), torch.tensor([2, 0, 1]))
