"""Published attacks on a detector's score, where the worst point of the ball is known."""

import numpy as np
import pytest
import torch
from pyautoattack.square import SquareAttack
from torch import nn

from advebm.data.images import Images
from advebm.energy import SCORES, marginal
from advebm.evaluation import MEASUREMENTS, ood, scores
from advebm.evaluation.attacks import Attacks
from advebm.networks.wrn import WideResNet
from advebm.reports.ood import REPORT
from advebm.samplers.apgd import AutoPGD
from advebm.samplers.norms import NORMS
from advebm.samplers.square import Square, bump, square
from advebm.samplers.streams import Streams

NAMES = {"linf": "Linf", "l2": "L2"}
SHAPE = (1, 8, 8)


class Released(SquareAttack):
    """Squares of the released code never reach the last row and column: randint without the upper end. Here they do."""

    def random_int(self, low=0, high=1, shape=(1,)):
        return super().random_int(low, high + 1, shape)


class Known(nn.Module):
    """One logit -E(x) of a given energy."""

    outputs = 1

    def __init__(self, energy):
        super().__init__()
        self.energy, self.p = energy, nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return -self.energy(x)[:, None] + 0 * self.p


def linear(seed=0):
    """w and the energy w x."""
    w = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))
    return w, lambda x: (w * x).flatten(1).sum(1)


def middle(n, seed=0):
    """Images far from 0 and 1."""
    return 0.3 + 0.4 * torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("side", [1, 2, 3, 5, 9, 12])
def test_the_bump_of_the_square_attack_is_that_of_its_authors(side):
    theirs = Released(None, norm="L2", eps=1.0, device="cpu").eta(side)
    assert min((bump(side) - theirs).abs().max(), (bump(side).mT - theirs).abs().max()) < 1e-6


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.05), ("l2", 0.2)])
def test_the_square_attack_finds_as_much_as_that_of_its_authors(norm, eps):
    """The mean of what it lowers a linear energy by, within three standard errors."""
    energy, x, queries = linear()[1], middle(64), 100
    ours = energy(x) - energy(
        square(energy, x, Streams(0, "square", ids=torch.arange(64)), queries=queries, eps=eps, norm=norm)
    )

    def logits(z):
        return torch.stack([energy(z), torch.full((len(z),), -100.0)], 1)

    torch.manual_seed(0)
    theirs = []
    for own in x.split(2):  # the images of a batch share places
        attack = Released(logits, norm=NAMES[norm], n_queries=queries, eps=eps, resc_schedule=True, device="cpu")
        attack.init_hyperparam(own)
        theirs.append(energy(own) - energy(attack.attack_single_run(own, torch.zeros(2, dtype=torch.long))[1]))
    theirs = torch.cat(theirs)
    error = (ours.var() / 64 + theirs.var() / 32).sqrt()
    assert abs(ours.mean() - theirs.mean()) < 3 * error < 0.15 * theirs.mean()


def test_the_square_attack_tends_to_the_worst_corner():
    w, energy = linear()
    x = middle(10)
    moved = square(energy, x, Streams(0, "square", ids=torch.arange(10)), queries=1000, eps=0.05, norm="linf")
    assert torch.allclose(energy(moved), energy(x) - 0.05 * w.abs().sum(), atol=0.02 * 0.05 * w.abs().sum().item())


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 12, 7), (3, 4, 4)])
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 1.0)])
def test_the_square_attack_stays_in_the_ball_and_depends_on_no_batch(shape, norm, eps):
    torch.manual_seed(0)
    net = WideResNet(depth=10, width=1).build(shape, 3).eval().requires_grad_(False)
    x, ids = torch.rand(6, *shape), torch.arange(6)
    moved = square(marginal(net), x, Streams(0, "square", ids=ids), queries=20, eps=eps, norm=norm)
    assert moved.min() >= 0 and moved.max() <= 1 and (marginal(net)(moved) < marginal(net)(x)).all()
    assert torch.allclose(NORMS[norm].project(moved - x, eps), moved - x, atol=1e-6)
    parts = [
        square(lambda z: z.sum((1, 2, 3)), x[own], Streams(0, "square", ids=own), queries=20, eps=eps, norm=norm)
        for own in ids.split(4)
    ]
    whole = square(lambda z: z.sum((1, 2, 3)), x, Streams(0, "square", ids=ids), queries=20, eps=eps, norm=norm)
    assert torch.equal(torch.cat(parts), whole)


def detected(energy, eps, norm="l2", **attacks):
    """The result on images of two halves, and the scores before, of a network of that energy."""
    inside, outside = (Images(np.random.default_rng(s).integers(80, 176, (40, 8, 8, 1), dtype=np.uint8)) for s in (0, 1))
    spec = ood.Ood(
        n=40,
        radii={norm: [eps]},
        attack=ood.Descents(steps=20, restarts=1),
        rounds=1,
        attacks=Attacks(**{"apgd": AutoPGD(steps=30, restarts=2), "square": Square(queries=40)} | attacks),
    )
    result, drawn = ood.ood(Known(energy), "energy", inside, {"other": outside}, spec, seed=0)
    return result, drawn["other"]


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.02), ("l2", 0.1)])
def test_auto_pgd_reaches_the_worst_case_of_a_linear_energy(norm, eps):
    """The score within the radius is at most -w x + eps |w|, by the dual norm."""
    w, energy = linear()
    result, before = detected(energy, eps, norm)
    found = result.named["other"].scores["energy"].attacks
    most = eps * (w.abs().sum() if norm == "linf" else w.norm()).item()
    worst = ood.auc(before["in"], before["out"] + most)
    assert found["apgd"].auc == found["descents"].auc == found["all"].auc == worst < result.named["other"].auc
    assert worst <= found["square"].auc < result.named["other"].auc
    assert (found["apgd"].norm, found["apgd"].eps, found["apgd"].n) == (norm, eps, 40)


def test_auto_pgd_reaches_the_worst_case_of_a_quadratic_energy():
    """E(x) = |x - c|^2, whose least value within the radius is max(|x - c| - eps, 0)^2."""
    c, eps = torch.full(SHAPE, 0.5), 0.3
    result, before = detected(lambda x: (x - c).square().flatten(1).sum(1), eps)
    found = result.named["other"].scores["energy"].attacks
    worst = ood.auc(before["in"], -(np.clip((-before["out"]) ** 0.5 - eps, 0, None) ** 2))
    assert found["apgd"].auc == pytest.approx(worst, abs=2e-3) and worst < result.named["other"].auc - 0.1


def test_attacks_are_of_the_first_images_and_the_scores_asked_for(monkeypatch):
    torch.manual_seed(5)
    net = WideResNet(depth=10, width=1).build(SHAPE, 3).eval().requires_grad_(False)
    inside, outside = (Images(np.random.default_rng(s).integers(0, 256, (30, 8, 8, 1), dtype=np.uint8)) for s in (0, 1))
    cheap = {"apgd": AutoPGD(steps=3, restarts=1), "square": Square(queries=3)}
    spec = ood.Ood(
        n=30, attacked=20, radii={"l2": [0.2, 0.4]}, attack=ood.Descents(steps=3, restarts=1), rounds=1,
        attacks=Attacks(n=10, **cheap),
    )  # fmt: skip
    result, drawn = ood.ood(net, "energy", inside, {"noise": outside}, spec, seed=0)
    others = scores.Scores(
        n=30, attacked=20, names=["max_softmax", "logit"], eps=0.4, attack=ood.Descents(steps=3, restarts=1), rounds=1,
        attacks={"max_softmax": Attacks(n=10, **cheap)},
    )  # fmt: skip
    beside = scores.compared(net, "energy", inside, {"noise": outside}, others, seed=0)
    found = {"energy": result.named["noise"].scores["energy"], **beside.named["noise"].scores}
    assert {key: {a.n for a in scored.attacks.values()} for key, scored in found.items()} == {
        "energy": {10}, "max_softmax": {10}, "logit": set(),
    }  # fmt: skip
    for scored in found.values():
        assert all(scored.attacks["all"].auc <= after.auc for after in scored.attacks.values())
        assert {case.n for case in scored.worst.values()} == {20}
    read, read_beside = ood.OodResult.read(result.json()), scores.ScoresResult.read(beside.json())
    assert read == result and REPORT.metrics(read)["ood/noise/energy/square"] == found["energy"].attacks["square"].auc
    numbers = MEASUREMENTS["scores"].report.metrics(read_beside)
    assert (
        read_beside == beside and numbers["scores/noise/max_softmax/square"] == found["max_softmax"].attacks["square"].auc
    )
    shown = drawn["noise"]
    assert shown["before"].shape == shown["after"].shape == (ood.SHOWN, 8, 8, 1)
    order = np.argsort(-shown["worst"], kind="stable")[: ood.SHOWN]
    assert np.array_equal(shown["score after"], shown["worst"][order]) and (order < 20).all()
    assert np.array_equal(shown["before"], outside.x[order])
    x = outside.pixels()[order]
    assert np.array_equal(shown["class before"], net(x).argmax(1).numpy())
    assert np.allclose(shown["score before"], ood.scores(SCORES["energy"](net), x, 20), atol=1e-5)
