import copy
import json
import re
import subprocess
import sys

import numpy as np
import pyautoattack
import pytest
import torch
from PIL import Image
from pyautoattack.autopgd_base import APGDAttack
from scipy.linalg import sqrtm
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score, roc_curve
from torch import nn

from advebm.data.images import Images
from advebm.energy import SCORES, grad, marginal, negative, posterior
from advebm.evaluation import autoattack, features, frechet, intervals, kernel, ood, quality, robustness, scores
from advebm.evaluation.collapse import collapsed
from advebm.evaluation.smoothed import Smoothed
from advebm.networks.wrn import WideResNet
from advebm.runtime.parts import anew
from advebm.runtime.state import Cache, State
from advebm.samplers.apgd import AutoPGD, apgd
from advebm.samplers.norms import NORMS
from advebm.samplers.pgd import pgd
from advebm.samplers.streams import Streams
from advebm.vision import torch_fidelity


@pytest.fixture
def judge():
    torch.manual_seed(5)
    return WideResNet(depth=10, width=1).build((1, 8, 8), 3).eval().requires_grad_(False)


@pytest.fixture
def images():
    """6 pixels a side; the Square attack needs at least 5."""
    rng = np.random.default_rng(0)
    return Images(rng.integers(0, 256, (60, 6, 6, 1), dtype=np.uint8), np.arange(60) % 3)


def test_auc_counts_pairs_and_halves_of_ties():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, 40).astype(float), rng.integers(0, 5, 30).astype(float)
    pairs = np.mean([[(x > y) + 0.5 * (x == y) for y in b] for x in a])
    assert ood.auc(a, b) == pytest.approx(pairs)
    assert ood.auc(a, b) == pytest.approx(roc_auc_score(np.r_[np.ones(40), np.zeros(30)], np.r_[a, b]))


NOISE = {"noise": Images(np.random.default_rng(1).integers(0, 256, (50, 6, 6, 1), dtype=np.uint8))}


def measure(net, images, batch=500, detector="energy", **numbers):
    spec = ood.Ood(**{"n": 40, "attack": ood.Descents(steps=10, restarts=2), "radii": {"l2": [0.2, 0.8]}} | numbers)
    numbers, values = ood.ood(net, detector, images, NOISE, spec, seed=0, batch=batch)
    return numbers.json()["noise"], values["noise"]


def compare(net, images, detector="energy", **numbers):
    spec = scores.Scores(**{"n": 40, "attack": ood.Descents(steps=10, restarts=2), "eps": 0.8} | numbers)
    return scores.compared(net, detector, images, NOISE, spec, seed=0).json()["noise"]["scores"]


def test_worst_case_auc_is_auc_at_radius_0_and_falls_with_the_radius(judge, images):
    found, values = measure(judge, images, radii={"l2": [0.1, 0.4, 0.8], "linf": [1.0e-9, 0.05, 0.1]})
    assert found["n"] == 40 and (values["worst"] >= values["out"]).all()
    for norm, curve in found["curves"].items():
        assert curve["eps"][0] == 0 and curve["auc"][0] == found["auc"]
        assert curve["auc"] == sorted(curve["auc"], reverse=True) and curve["auc"][-1] < found["auc"]
        assert found["scores"]["energy"]["worst"][norm]["auc"] == curve["auc"][-1]
    assert found["curves"]["linf"]["auc"][1] == pytest.approx(found["auc"], abs=1e-3)
    assert found["auc_worst"] == found["curves"]["l2"]["auc"][-1]


def test_each_score_is_attacked_by_itself(judge, images):
    found, _ = measure(judge, images, detector="max_softmax")
    assert list(found["scores"]) == ["max_softmax", "energy", "grad_norm", "logit"] and found["score"] == "max_softmax"
    assert found["auc"] == found["scores"]["max_softmax"]["auc"] != found["scores"]["energy"]["auc"]
    others = compare(judge, images, detector="max_softmax")
    assert list(others) == ["energy", "grad_norm", "logit"]
    assert list(compare(judge, images, names=["max_softmax", "logit"])) == ["max_softmax", "logit"]
    for score in others:
        assert found["scores"][score] == others[score] | {"worst": {}}, "standard there, attacked here"
    for score, entry in (others | {"max_softmax": found["scores"]["max_softmax"]}).items():
        s_in = ood.scores(SCORES[score](judge), images[:40].pixels(), 40)
        s_out = ood.scores(SCORES[score](judge), NOISE["noise"][:40].pixels(), 40)
        assert entry["auc"] == pytest.approx(roc_auc_score(np.r_[np.ones(40), np.zeros(40)], np.r_[s_in, s_out]))
        worst = entry["worst"]["l2"]
        assert worst["auc"] < entry["auc"]
        assert re.fullmatch(r"pgd with momentum, 10 steps, \d+ restarts", worst["attack"])
        assert worst["rounds"] == sorted(worst["rounds"], reverse=True) and worst["rounds"][-1] == worst["auc"]


def test_rounds_of_an_attack_end_where_two_find_little(judge, images):
    found, _ = measure(judge, images, attacked=30, radii={"l2": [0.3, 0.6]})
    worst = found["scores"]["energy"]["worst"]["l2"]
    assert worst["n"] == 30 and found["n"] == 40
    restarts = int(re.search(r"(\d+) restarts", worst["attack"])[1])
    before = found["curves"]["l2"]["auc"][1]  # within the smaller radius
    two = np.array([before, *worst["rounds"][:-2]]) - worst["rounds"][1:]
    assert restarts == 2 * len(worst["rounds"]) and (two[:-1] >= ood.FOUND).all() and two[-1] < ood.FOUND
    cut, _ = measure(judge, images, attacked=30, radii={"l2": [0.3, 0.6]}, rounds=1)
    assert cut["scores"]["energy"]["worst"]["l2"]["rounds"] == worst["rounds"][:1]


@pytest.mark.parametrize("score", ["energy", "max_softmax"])
def test_many_random_restarts_find_no_lower_auc(images, score):
    """Auto-PGD with 40 restarts of 100 steps, from random points and on the score itself."""
    torch.manual_seed(5)
    net = WideResNet(depth=10, width=1).build((1, 6, 6), 3).eval().requires_grad_(False)
    found, values = measure(net, images, detector=score, radii={"l2": [0.7]}, attack=ood.Descents(steps=50, restarts=3))
    x, energy = NOISE["noise"][:40].pixels().repeat_interleave(40, 0), SCORES[score](net)  # one batch is faster
    moved = AutoPGD(steps=100, restarts=1)(energy, x, Streams(0, "many", ids=torch.arange(1600)), eps=0.7, norm="l2")
    many = ood.auc(values["in"], ood.scores(energy, moved, 400).reshape(40, 40).max(1))
    assert 0 < found["auc_worst"] <= many + 0.005 < found["auc"]


def test_scores_are_what_the_papers_define(judge, images):
    x = images.pixels()
    logits = judge(x)
    assert torch.equal(-SCORES["energy"](judge)(x), logits.logsumexp(1))
    assert torch.equal(-SCORES["logit"](judge)(x), logits.amax(1))
    assert torch.allclose((-SCORES["max_softmax"](judge)(x)).exp(), logits.softmax(1).amax(1))
    length = grad(marginal(judge), x).flatten(1).norm(dim=1)
    with torch.no_grad():
        assert torch.allclose(SCORES["grad_norm"](judge)(x), length, rtol=1e-5)


def test_the_length_of_the_gradient_is_attacked_where_it_has_kinks():
    """Along a kinked network's own gradient of it, descents find less."""
    torch.manual_seed(1)
    net = WideResNet(depth=10, width=1).build((1, 8, 8), 1).eval().requires_grad_(False)
    rng = np.random.default_rng(4)
    inside, outside = (Images(rng.integers(0, high, (30, 8, 8, 1), dtype=np.uint8)) for high in (80, 256))
    spec = scores.Scores(n=30, eps=1.0, attack=ood.Descents(steps=20, restarts=2), rounds=2)
    found = scores.compared(net, "energy", inside, {"noise": outside}, spec, seed=0).json()["noise"]["scores"]
    assert list(found) == ["grad_norm"], "with one logit there is no softmax, and the logit is -E(x)"
    x, plain = outside.pixels(), SCORES["grad_norm"](net)
    for restart in range(4):
        streams = Streams(0, "plain", restart, ids=torch.arange(30))
        start = x + NORMS["l2"].random_start(x.shape, 1.0, streams)
        moved = pgd(plain, x, start=start, steps=20, step_size=0.5, eps=1.0, momentum=0.75, annealed=True, best=True)
        along = ood.auc(ood.scores(plain, inside.pixels(), 30), ood.scores(plain, moved, 30))
        assert found["grad_norm"]["worst"]["l2"]["auc"] < along - 0.05


def test_smooth_kinks_tend_to_the_kinks():
    x = torch.linspace(-2, 2, 401, dtype=torch.float64)
    for kink, slope in ((torch.nn.ReLU(), 0.0), (torch.nn.LeakyReLU(0.2), 0.2)):
        for sharpness in (5.0, 50.0):
            with Smoothed(sharpness):
                smooth = kink(x)
            assert (smooth - kink(x)).max() == pytest.approx((1 - slope) * np.log(2) / sharpness)
            assert torch.allclose(smooth, slope * x + (1 - slope) * torch.logaddexp(sharpness * x, 0 * x) / sharpness)
    net = WideResNet(depth=10, width=1, activation="silu").build((1, 8, 8), 3).eval()
    z = torch.rand(3, 1, 8, 8)
    with Smoothed(5.0), torch.no_grad():
        smooth = net(z)
    assert torch.equal(smooth, net(z)), "it has no kinks"
    with Smoothed(1.0e5), torch.no_grad():
        net = WideResNet(depth=10, width=1).build((1, 8, 8), 3).eval()
        sharp = net(z)
    assert torch.allclose(sharp, net(z), atol=1e-4)


def test_false_positive_rate_is_that_of_the_roc_curve():
    rng = np.random.default_rng(3)
    a, b = rng.normal(1, 1, 83), rng.normal(0, 1, 57)
    false, true, _ = roc_curve(np.r_[np.ones(83), np.zeros(57)], np.r_[a, b], drop_intermediate=False)
    assert ood.fpr95(a, b) == pytest.approx(false[np.argmax(true >= 0.95)])


def test_intervals_are_those_of_scipy():
    for k, n in ((0, 20), (3, 40), (39, 40), (500, 500)):
        low, high = binomtest(k, n).proportion_ci(method="wilson")
        assert intervals.proportion(k / n, n) == pytest.approx([low, high])
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 1, 200), rng.normal(0, 1, 150)
    drawn = [ood.auc(rng.choice(a, 200), rng.choice(b, 150)) for _ in range(1000)]
    assert intervals.auc(a, b) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.01)
    assert intervals.auc(a + 99, b) == intervals.proportion(1, 150)  # no overlap: still not an interval of width 0


@pytest.mark.parametrize(("norm", "theirs", "eps"), [("linf", "Linf", 0.1), ("l2", "L2", 0.5)])
def test_apgd_is_that_of_its_authors(norm, theirs, eps):
    torch.manual_seed(0)
    net = WideResNet(depth=10, width=1).build((1, 8, 8), 10).eval().requires_grad_(False)
    x = torch.rand(20, 1, 8, 8)
    y = net(x).argmax(1)
    published = APGDAttack(net, n_iter=100, norm=theirs, eps=eps, device="cpu")
    published.init_hyperparam(x)
    start = (x + eps * published.normalize(torch.randn(x.shape))).clamp(0, 1)
    found, _, loss, _ = published.attack_single_run(x, y, x_init=start)
    ours = apgd(negative(posterior(net, y)), x, start, steps=100, eps=eps, norm=norm)
    assert torch.allclose(ours, found, atol=2e-3) and torch.allclose(posterior(net, y)(ours), loss, atol=1e-5)
    assert (loss > posterior(net, y)(start) + 0.01).all()


def against(curve=(0.05, 0.1), **numbers):
    """An attack on each objective, with the same parameters."""
    return robustness.Robustness(
        attacks={on: robustness.Against(ascends=on, **numbers) for on in ("ce", "energy", "target")},
        curve=robustness.Curve(radii=list(curve), attack=AutoPGD(steps=5, restarts=1)),
    )


def test_networks_without_classes_have_no_accuracy(images):
    net = WideResNet(depth=10, width=1).build((1, 4, 4), 1).eval()
    found = robustness.robustness(net, images, against(eps=0.1, steps=1), seed=0).json()
    assert found["clean"] is None and found["attacks"]["ce"]["accuracy"] is None and found["n"] == 60


def test_robustness_is_clean_at_radius_0_and_falls(judge, images):
    found = [robustness.robustness(judge, images, against(eps=eps, steps=20), seed=0).json() for eps in (0.0, 0.02, 0.3)]
    for name in ("ce", "energy"):
        accuracies = [entry["attacks"][name]["accuracy"] for entry in found]
        assert accuracies[0] == found[0]["clean"] >= accuracies[1] >= accuracies[2] < accuracies[0]
    with torch.no_grad():
        right = (judge(images.pixels()).argmax(1) == images.labels()).double().mean()
    assert found[0]["clean"] == right.item()


def test_restarts_only_find_more(judge, images):
    one, three = (
        robustness.robustness(judge, images, against(eps=0.03, steps=2, restarts=restarts), seed=0).json()["attacks"]
        for restarts in (1, 3)
    )
    for name in ("ce", "energy"):
        assert three[name]["accuracy"] <= one[name]["accuracy"] and three[name]["restarts"] == 3
    again = robustness.robustness(judge, images, against(eps=0.03, steps=2), seed=0).json()["attacks"]
    assert again["ce"]["accuracy"] == one["ce"]["accuracy"]


def test_measurements_do_not_depend_on_the_batch(judge, images):
    (a, s), (b, t) = (measure(judge, images, batch=n, attack=AutoPGD(steps=3, restarts=2)) for n in (7, 40))
    assert all(np.allclose(s[key], t[key], atol=1e-5) for key in s) and a == b
    c, d = (robustness.robustness(judge, images, against(eps=0.05, steps=3), seed=0, batch=n).json() for n in (7, 60))
    assert c.pop("curve")["loss"] == pytest.approx(d.pop("curve")["loss"], rel=1e-6) and c == d


def test_accuracy_against_the_radius_cannot_rise_and_masked_gradients_are_told(judge, images):
    found = robustness.robustness(judge, images, against(curve=(0.01, 0.02, 0.1, 0.5), eps=0.1, steps=1), seed=0).json()
    curve = found["curve"]
    assert curve["accuracy"][0] == found["clean"] and curve["loss"] == sorted(curve["loss"])
    assert curve["accuracy"] == sorted(curve["accuracy"], reverse=True) and not found["warnings"]

    class Stairs(nn.Module):  # correct but flat: gradient attacks find no direction
        outputs = 3

        def __init__(self):
            super().__init__()
            self.p = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return judge(images.pixels()[:1]).repeat(len(x), 1).detach() + 0 * x.sum((1, 2, 3))[:, None]

    right = Images(images.x, np.full(60, int(judge(images.pixels()[:1]).argmax())))
    found = robustness.robustness(Stairs(), right, against(eps=0.1, steps=1), seed=0).json()
    assert len(found["warnings"]) == 2 and "does not rise from radius 0 to 0.05, where 1 are right" in found["warnings"][0]


@torch.no_grad()
def test_autoattack_is_the_released_one_and_goes_on_where_it_was(monkeypatch):
    torch.manual_seed(3)
    net = WideResNet(depth=10, width=1).build((3, 8, 8), 4).eval().requires_grad_(False)
    net.head.bias.copy_(-net.features(torch.rand(200, 3, 8, 8)).mean(0) @ net.head.weight.T)  # to predict several classes
    x = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    images = Images(x, net(Images(x).pixels()).argmax(1).numpy())
    spec = autoattack.AutoAttack(n=6, eps={"linf": 0.015, "l2": 0.5})
    monkeypatch.setattr(autoattack, "ATTACKS", ("apgd-ce", "apgd-t"))  # Square's 5,000 queries are too slow for a test
    released = pyautoattack.AutoAttack(net, norm="Linf", eps=0.015, seed=0, version="custom", attacks=["apgd-ce", "apgd-t"])
    released.apgd.n_restarts, released.apgd_targeted.n_target_classes = 1, 3
    _, seen = released.run_standard_evaluation(images.pixels(), images.labels(), batch_size=6)
    whole = autoattack.autoattack(net, images, spec, seed=0).json()
    assert whole["linf"]["accuracy"] == (seen == images.labels()).double().mean().item() > 0
    assert whole["n"] == 6 and whole["linf"]["clean"] == 1 and whole["l2"]["accuracy"] == 0
    assert len(whole["warnings"]) == 1 and whole["warnings"][0].startswith("linf: Square")  # the last attack finds more
    assert whole["linf"]["apgd-t"] == whole["linf"]["accuracy"] <= whole["linf"]["apgd-ce"] < 1
    monkeypatch.setattr(autoattack, "CHUNK", 3)
    kept = {}

    def part(name, make):
        kept[name] = kept[name] if name in kept else make()
        return kept[name]

    whole = autoattack.autoattack(net, images, spec, seed=0, part=part)
    del kept["l2 3"]
    chunks, chunk = [], autoattack._chunk
    monkeypatch.setattr(autoattack, "_chunk", lambda *given: chunks.append(given[2]) or chunk(*given))
    assert autoattack.autoattack(net, images, spec, seed=0, part=part) == whole and chunks == ["l2"]
    three = autoattack.autoattack(WideResNet(depth=10, width=1).build((1, 8, 8), 3), images, spec, seed=0)
    assert all(ball.accuracy is None for ball in three.balls.values()), "the targeted loss needs 4 classes"


@pytest.mark.parametrize("shape", [(12, 8), (8, 12), (12, 12), (28, 20)])
def test_images_of_any_sides_are_attacked(shape):
    torch.manual_seed(0)
    net = WideResNet(depth=10, width=1).build((1, *shape), 4).eval().requires_grad_(False)
    rng = np.random.default_rng(0)
    images = Images(rng.integers(0, 256, (4, *shape, 1), dtype=np.uint8))
    x = images.pixels()
    images = Images(images.x, net(x).argmax(1).numpy())
    found = autoattack.autoattack(net, images, autoattack.AutoAttack(n=4, eps={"l2": 1.0, "linf": 0.2}), seed=0)
    assert found.balls["l2"].left["clean"] == 1 and found.balls["l2"].accuracy < 1


def plain_frechet(a, b):
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) (Heusel et al. 2017, Eq. 6)."""
    root = sqrtm(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)).real
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a, rowvar=False) + np.cov(b, rowvar=False) - 2 * root)


def inception_score(logits, splits, seed=2020):
    """exp(mean KL(p(y|x), p(y))) (Salimans et al. 2016), over splits of the shuffled images."""
    p = torch.softmax(torch.from_numpy(logits), 1).numpy()[np.random.RandomState(seed).permutation(len(logits))]
    scores = [np.exp((q * (np.log(q) - np.log(q.mean(0)))).sum(1).mean()) for q in np.array_split(p, splits)]
    return np.mean(scores), np.std(scores)


def test_quality_is_the_formulas_on_the_judges_features(judge, images, tmp_path, monkeypatch):
    rng = np.random.default_rng(2)
    made, reference = (
        Images(rng.integers(0, high, (300, 8, 8, 1), dtype=np.uint8), np.arange(300) % 3) for high in (256, 200)
    )
    spec = quality.Quality(features="judge", splits=3)
    using = features.network(spec, judge, 1, tmp_path)
    against = quality.reference(reference, 300, using)
    found = quality.fidelity(made, against, spec, using, name="made")
    a, b = (judge.features(s.pixels()).double().numpy() for s in (made, reference))
    assert found.fid == pytest.approx(plain_frechet(a, b), rel=1e-3) and found.n == found.reference_n == 300
    for k, fid in enumerate(found.fid_per_class):
        assert fid == pytest.approx(plain_frechet(a[k::3], b[k::3]), rel=1e-3)
    drawn = [frechet.frechet(torch.from_numpy(a[rng.choice(300, 300)]), torch.from_numpy(b)) for _ in range(100)]
    assert 0.5 < found.fid_se / np.std(drawn) < 2  # agrees with the bootstrap
    mean, std = inception_score(judge(made.pixels()).double().numpy(), 3)
    assert (found.is_mean, found.is_std) == pytest.approx((mean, std), rel=1e-4)
    same = quality.fidelity(reference, against, spec, using, name="made")
    assert abs(same.fid) < 1e-3 and same.kid < found.kid and same.precision == same.recall == 1
    with pytest.raises(ValueError, match="300 is too many, the reference has 100 images"):
        quality.reference(reference[:100], 300, using)
    assert found.fid != float(np.float32(found.fid)), "the FID must keep full precision when saved as a part"
    fewer = quality.fidelity(made, quality.reference(reference, 200, using), spec, using, name="made")
    assert fewer.fid == pytest.approx(plain_frechet(a, b[:200]), rel=1e-3)
    assert quality.protocol(spec, "ours", fewer, 300).startswith("ours: 300 images from scratch against 200 train images,")
    monkeypatch.setattr(quality, "MANY", 50)
    more = quality.fidelity(made[:100], against, spec, using, name="made")
    assert more.fid == pytest.approx(plain_frechet(a[:100], b), rel=1e-3)
    equal = quality.fidelity(made[:100], quality.Reference(reference[::3], using), spec, using, name="made")
    assert (more.precision, more.recall) == (equal.precision, equal.recall)
    assert "against 300 train images (precision and recall: 100 of them)" in quality.protocol(spec, "ours", more, 100)
    assert quality.protocol(spec, "atebm", fewer, 30).startswith("atebm: 300 images (30 distinct) from out-")
    how = quality.generated("bf16", {"statistics": "batch"})
    assert "from scratch (in bf16, on batch statistics) against" in quality.protocol(spec, "ours", fewer, 300, how)
    assert quality.generated("fp32", {}) == "" and how not in quality.protocol(spec, "jempp-buffer", fewer, 300, how)


def kid(a, b, y=None, z=None):
    return kernel.distance(kernel.Features.of(a, y), kernel.Features.of(b, z))


def test_kernel_distance_has_no_bias_for_as_many_images_of_each_class():
    """Of two sets of one distribution, whose four classes are far apart."""
    rng = np.random.default_rng(1)
    y = np.arange(40) % 4  # a class once in each group of the jackknife
    found, naive = [], []
    for _ in range(300):
        a, b = (torch.from_numpy(rng.normal(3 * np.eye(4)[y], 1)).float() for _ in range(2))
        found.append(kid(a, b, y, y))
        naive.append(kid(a, b)[0])
    values, errors = np.array(found).T
    error = values.std() / 300**0.5
    assert abs(values.mean()) < 3 * error and np.mean(naive) < -10 * error
    assert 0.6 < errors.mean() / values.std() < 1.6


def test_kernel_distance_is_torch_fidelitys_of_one_subset_of_all_and_its_error_that_of_samples():
    from advebm.vision import torch_fidelity

    rng = np.random.default_rng(0)
    a, b = (torch.from_numpy(rng.normal(mean, 1, (60, 5))).float() for mean in (0.3, 0))
    found, error = kid(a, b)
    options = {"kid_subsets": 1, "kid_subset_size": 60, "verbose": False, "rng_seed": 0}
    theirs = torch_fidelity.metric_kid.kid_features_to_metric(a, b, **options)
    assert found == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-5)
    drawn = []
    for _ in range(200):
        c, d = (torch.from_numpy(rng.normal(mean, 1, (60, 5))).float() for mean in (0.3, 0))
        drawn.append(kid(c, d)[0])
    assert 0.6 < error / np.std(drawn) < 1.6, "the error covers samples and reference"
    few, more = a[:13], torch.cat([b, a])  # other numbers on the two sides, against the double sum written out
    k = lambda u, v: (float(u @ v) / 5 + 1) ** 3  # noqa: E731
    own = np.mean([k(few[i], few[j]) for i in range(13) for j in range(13) if i != j])
    theirs = np.mean([k(more[i], more[j]) for i in range(120) for j in range(120) if i != j])
    cross = np.mean([k(u, v) for u in few for v in more])
    assert kid(few, more)[0] == pytest.approx(own + theirs - 2 * cross, rel=1e-4)


def test_samples_and_reference_have_as_many_images_of_each_class():
    y = np.array([0] * 9 + [2] * 4 + [1] * 6)
    images = Images(np.arange(19, dtype=np.uint8)[:, None, None, None], y)
    assert quality.balanced(images, 9).y.tolist() == [0, 1, 2] * 3, "classes cycle"
    assert quality.balanced(images, 9).x.ravel().tolist() == [0, 13, 9, 1, 14, 10, 2, 15, 11], "the first of each class"
    assert np.bincount(quality.balanced(images, 10).y).tolist() == [4, 3, 3]
    assert np.bincount(quality.balanced(images, 19).y).tolist() == [4, 4, 4], "as many as the rarest class has"
    cycling = Images(np.arange(21, dtype=np.uint8)[:, None, None, None], np.arange(21) % 3)
    assert (quality.balanced(cycling, 20).x == cycling.x[:20]).all(), "samples stay as they are"
    assert len(quality.balanced(Images(images.x), 7).x) == 7


def test_numbers_of_other_features_are_not_taken_for_those_of_these(judge, tmp_path):
    """As after Inception's weights, or a file of features, were replaced while a measurement was interrupted."""
    x = np.random.default_rng(3).integers(0, 256, (2, 30, 8, 8, 1), dtype=np.uint8)
    spec, kept, other = quality.Quality(features="judge"), State(tmp_path), copy.deepcopy(judge)
    other.stem[1].weight.data *= 2
    found = {}
    for name, net, part in (("first", other, kept.part), ("then", judge, kept.part), ("right", judge, anew)):
        using = features.network(spec, net, 1, tmp_path)
        against = quality.Reference(Images(x[0]), using)
        found[name] = quality.fidelity(Images(x[1]), against, spec, using, name="sgld", part=part)
    assert found["first"].fid != found["then"].fid and found["then"] == found["right"]
    cut = features.network(spec, judge, 1, tmp_path, cache=lambda name, make: {k: z[:7] for k, z in make().items()})
    with pytest.raises(ValueError, match="state/features: holds features of other images than its names say"):
        quality.Reference(Images(x[0]), cut)


def test_collapsed_samples_are_told_with_their_numbers():
    rng = np.random.default_rng(0)
    data = np.where(rng.random((60, 4, 4, 1)) < 0.6, 0, rng.integers(0, 256, (60, 4, 4, 1))).astype(np.uint8)
    corners, one = np.where(data > 99, 255, 0).astype(np.uint8), data[:1].repeat(40, 0)
    one[0, 0, 0] += 1
    assert collapsed(data, data) == collapsed(np.maximum(corners, data // 2), data) == collapsed(corners, corners) == []
    assert [sign.split(" of their")[0] for sign in collapsed(corners, data)] == ["the images are saturated: 0.0000"]
    same, alike = collapsed(one, data)
    assert same == "only 2 of 40 images are distinct" and alike.startswith("the images are nearly the same: their pixels")


def test_too_few_images_are_refused_before_features_are_computed(judge, tmp_path):
    with pytest.raises(ValueError, match=r"sgld: 9 images, but their quality needs at least 10"):
        quality.enough({"sgld": Images(np.zeros((9, 8, 8, 1), np.uint8))})


def test_features_are_computed_once_for_the_same_images_and_network(judge, tmp_path, monkeypatch):
    rng = np.random.default_rng(4)
    x = rng.integers(0, 256, (2 * features.PART + 5, 8, 8, 1), dtype=np.uint8)
    spec, cache, seen = quality.Quality(features="judge"), Cache(tmp_path), []
    extracted = torch_fidelity.utils.extract_featuresdict_from_input_id
    monkeypatch.setattr(
        torch_fidelity.utils,
        "extract_featuresdict_from_input_id",
        lambda number, extractor, input1, **options: (
            seen.append(len(input1)) or extracted(number, extractor, input1=input1, **options)
        ),
    )

    def found(x, judge=judge):
        using = features.network(spec, judge, 1, tmp_path, cache=cache.part)
        return using.features(x, "x")["features"], len(seen)

    few, made = found(x[: features.PART + 9])
    assert made == 2 and len(few) == features.PART + 9
    many, made = found(x)
    assert made == 4 and torch.equal(many[: len(few)], few), "features of the first images must not be computed again"
    assert torch.equal(found(x)[0], many) and len(seen) == 4
    with torch.no_grad():
        assert torch.allclose(many, judge.features(Images(x).pixels()), atol=1e-5)
    other = copy.deepcopy(judge)
    other.head.weight.data += 1
    assert found(x, other)[1] == 7, "another network must have its own features"
    alike, made = found(np.repeat(x[:1], 3 * features.PART, 0))
    assert made == 8 and len(alike) == 3 * features.PART, "duplicate images must be counted each time"


def test_quality_is_that_of_torch_fidelitys_command_line(tmp_path):
    """On the same PNGs, with its Inception at random weights (the real ones are not available in a test)."""

    class Random(torch_fidelity.FeatureExtractorInceptionV3):
        def load_state_dict(self, state, **options):
            torch.manual_seed(0)
            for name, value in self.state_dict().items():
                if name.endswith("weight") and value.dim() > 1:
                    nn.init.kaiming_normal_(value)

    weights = tmp_path / "weights.pth"
    torch.save({}, weights)
    random = Random("random", ["2048"], feature_extractor_weights_path=str(weights))
    torch.save(random.state_dict(), weights)
    rng = np.random.default_rng(0)
    sets = [Images(rng.integers(0, high, (12, 16, 16, 3), dtype=np.uint8)) for high in (256, 128)]
    for folder, images in zip("ab", sets, strict=True):
        (tmp_path / folder).mkdir()
        for i, x in enumerate(images.x):
            Image.fromarray(x).save(tmp_path / folder / f"{i:02}.png")
    command = "import advebm.vision; from torch_fidelity.fidelity import main; main()"
    flags = (
        "--cpu --fid --kid --isc --prc --feature-extractor inception-v3-compat --prc-feature-extractor inception-v3-compat"
    )
    numbers = (
        f"--isc-splits 2 --kid-subsets 1 --kid-subset-size 12 --save-cpu-ram --json --silent "
        f"--input1 {tmp_path}/a --input2 {tmp_path}/b"
    )
    given = f"{flags} {numbers} --feature-extractor-weights-path {weights}".split()
    done = subprocess.run([sys.executable, "-c", command, *given], capture_output=True, text=True)
    theirs = json.loads(done.stdout) if not done.returncode else pytest.fail(done.stderr)
    spec = quality.Quality(features="inception", inception="weights.pth", splits=2)
    using = features.network(spec, None, 3, tmp_path)
    ours = quality.fidelity(sets[0], quality.reference(sets[1], 12, using), spec, using, name="made")
    for key, name in (
        ("fid", "frechet_inception_distance"),
        ("kid", "kernel_inception_distance_mean"),
        ("is_mean", "inception_score_mean"),
        ("is_std", "inception_score_std"),
        ("precision", "precision"),
        ("recall", "recall"),
    ):
        assert getattr(ours, key) == pytest.approx(theirs[name], rel=1e-3, abs=1e-6), key
    layer = using.layers[0]
    a, b = (using.features(images.x, "x")[layer] for images in sets)
    assert frechet.frechet(a, b) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    assert ours.fid_per_class is None


@pytest.mark.parametrize(("n", "m"), [(400, 900), (40, 900), (400, 30), (40, 30), (50, 50)])
def test_frechet_distances_are_torch_fidelitys(n, m):
    """For many and few images of 50 features, some of them always zero, as after a ReLU; also compared with the singular
    values of the features themselves, which avoid the rounding of their squares."""
    rng = np.random.default_rng(n + m)
    scale = np.r_[np.geomspace(1, 1e-3, 45), np.zeros(5)]
    a, b = (rng.normal(mean, 1, (count, 50)) * scale for mean, count in ((0.3, n), (0, m)))
    found = frechet.frechet(torch.from_numpy(a), torch.from_numpy(b))
    x, y = ((z - z.mean(0)) / (len(z) - 1) ** 0.5 for z in (a, b))
    shared = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    plain = ((a.mean(0) - b.mean(0)) ** 2).sum() + (x**2).sum() + (y**2).sum() - 2 * shared
    assert found == pytest.approx(plain, rel=1e-6)
    of = torch_fidelity.metric_fid.fid_features_to_statistics
    theirs = torch_fidelity.metric_fid.fid_statistics_to_metric(*(of(torch.from_numpy(z)) for z in (a, b)), verbose=False)
    assert found == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)


@pytest.mark.parametrize("n", [300, 45])
def test_gaussians_without_a_group_are_those_of_the_rest(n):
    z = torch.rand(n, 50, generator=torch.Generator().manual_seed(n)) + 3
    for g, found in enumerate(frechet.without_each(z, 7)):
        rest = z[torch.arange(n) * 7 // n != g].double()
        assert torch.allclose(found.mean, rest.mean(0), atol=1e-12)
        assert torch.allclose(found.covariance, rest.T.cov(), atol=1e-12)
        assert torch.allclose(found.root.T @ found.root, found.covariance, atol=1e-12)


def test_the_standard_error_of_fid_is_its_deviation_over_draws():
    """For images whose classes cycle, as those of samples do."""
    torch.manual_seed(0)
    centres = 2 * torch.randn(10, 4)
    reference = centres[torch.arange(5000) % 10] + torch.randn(5000, 4) + 0.5
    draws = [centres[torch.arange(500) % 10] + torch.randn(500, 4) for _ in range(200)]
    deviation = torch.tensor([frechet.frechet(a, reference) for a in draws]).std().item()
    estimated = torch.tensor([frechet.jackknife(a, frechet.fitted(reference)) for a in draws]).mean().item()
    assert estimated == pytest.approx(deviation, rel=0.25)


def test_the_replay_buffer_is_picked_by_confidence(judge, images):
    picked = quality.confident(judge, images, 11, batch=7)
    p, seen = judge(images.pixels()).softmax(1).max(1)
    surest = [int(i) for i in p.argsort(descending=True, stable=True)]
    chosen = [i for k in range(3) for i in [i for i in surest if seen[i] == k][: 11 // 3]]
    chosen += [i for i in surest if i not in chosen][: 11 - len(chosen)]
    assert np.array_equal(picked.x, images.x[sorted(chosen)]) and len(picked.x) == 11 and picked.y is None
    assert quality.confident(judge, images, len(images.x)) is images


def test_label_consistency(judge, images):
    with torch.no_grad():
        seen = judge(images.pixels()).argmax(1).numpy()
    assert quality.label_consistency(judge, Images(images.x, seen)) == 1
    assert quality.label_consistency(judge, Images(images.x, (seen + 1) % 3)) == 0


def test_inception_weights_without_classifier_give_no_inception_score(judge, tmp_path):
    for name, layer in (("pool", torch.zeros(1008, 4)), ("full", torch.ones(1008, 4))):
        torch.save({"fc.weight": layer}, tmp_path / f"{name}.pth")
        spec = quality.Quality(features="inception", inception=f"{name}.pth")
        using = features.network(spec, judge, 3, tmp_path)
        assert using.classifies is (name == "full") and using.weights == tmp_path / f"{name}.pth"
    file, one = tmp_path / "full.pth", torch.ones(1).numpy().tobytes()
    file.write_bytes(file.read_bytes().replace(one, torch.full((1,), 2.0).numpy().tobytes(), 1))
    with pytest.raises(ValueError, match=r"full.pth: does not hold .* was altered"):
        features.network(spec, judge, 3, tmp_path)
