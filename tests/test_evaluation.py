import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from sklearn.metrics import roc_auc_score

from advebm.data.images import Images
from advebm.energy import marginal
from advebm.evaluation import ood, quality, robustness
from advebm.networks.wrn import WideResNet
from advebm.samplers.pgd import Attack


@pytest.fixture
def judge():
    torch.manual_seed(5)
    return WideResNet(depth=10, width=1).build((1, 8, 8), 3).eval().requires_grad_(False)


def test_auc_counts_pairs_and_halves_of_ties():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, 40).astype(float), rng.integers(0, 5, 30).astype(float)
    pairs = np.mean([[(x > y) + 0.5 * (x == y) for y in b] for x in a])
    assert ood.auc(a, b) == pytest.approx(pairs)
    assert ood.auc(a, b) == pytest.approx(roc_auc_score(np.r_[np.ones(40), np.zeros(30)], np.r_[a, b]))


def test_worst_case_auc_is_auc_at_radius_0_and_falls(judge, images):
    outside = {"noise": Images(np.random.default_rng(1).integers(0, 256, (50, 4, 4, 1), dtype=np.uint8))}
    found = []
    for eps in (0.0, 0.2, 0.8):
        spec = ood.Ood(n=40, attack=Attack(eps=eps, steps=10, norm="l2"))
        numbers, values = ood.ood(marginal(judge), images, outside, spec, seed=0)
        found.append(numbers["noise"])
        assert numbers["noise"]["n"] == 40 and (values["noise"]["worst"] >= values["noise"]["out"]).all()
    assert found[0]["auc_worst"] == found[0]["auc"] == found[1]["auc"]
    assert found[0]["auc"] > found[1]["auc_worst"] > found[2]["auc_worst"]


def against(**numbers):
    """Both objectives at the same numbers."""
    return robustness.Robustness(attacks={on: robustness.Against(ascends=on, **numbers) for on in ("ce", "energy")})


def test_networks_without_classes_have_no_accuracy(images):
    net = WideResNet(depth=10, width=1).build((1, 4, 4), 1).eval()
    found = robustness.robustness(net, images, against(eps=0.1, steps=1), seed=0)
    assert found["clean"] is None and found["attacks"]["ce"]["accuracy"] is None and found["n"] == 60


def test_robustness_is_clean_at_radius_0_and_falls(judge, images):
    found = [robustness.robustness(judge, images, against(eps=eps, steps=20), seed=0) for eps in (0.0, 0.02, 0.3)]
    for name in ("ce", "energy"):
        accuracies = [entry["attacks"][name]["accuracy"] for entry in found]
        assert accuracies[0] == found[0]["clean"] >= accuracies[1] >= accuracies[2] < accuracies[0]
    with torch.no_grad():
        right = (judge(images.pixels()).argmax(1) == images.labels()).double().mean()
    assert found[0]["clean"] == right.item()


def test_restarts_only_find_more(judge, images):
    one, three = (
        robustness.robustness(judge, images, against(eps=0.03, steps=2, restarts=restarts), seed=0)["attacks"]
        for restarts in (1, 3)
    )
    for name in ("ce", "energy"):
        assert three[name]["accuracy"] <= one[name]["accuracy"] and three[name]["restarts"] == 3
    again = robustness.robustness(judge, images, against(eps=0.03, steps=2), seed=0)["attacks"]
    assert again["ce"]["accuracy"] == one["ce"]["accuracy"]


def test_measurements_do_not_depend_on_the_batch(judge, images):
    outside = {"noise": images}
    spec = ood.Ood(n=40, attack=Attack(eps=0.2, steps=3, norm="l2"))
    a, b = (ood.ood(marginal(judge), images, outside, spec, seed=0, batch=n)[1]["noise"] for n in (7, 40))
    assert all(np.allclose(a[key], b[key], atol=1e-5) for key in a)
    c, d = (robustness.robustness(judge, images, against(eps=0.05, steps=3), seed=0, batch=n) for n in (7, 60))
    assert c == d


def frechet(a, b):
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) (Heusel et al. 2017, Eq. 6)."""
    root = sqrtm(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)).real
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a, rowvar=False) + np.cov(b, rowvar=False) - 2 * root)


def inception_score(logits, splits, seed=2020):
    """exp(mean KL(p(y|x), p(y))) (Salimans et al. 2016), over splits of the shuffled images."""
    p = torch.softmax(torch.from_numpy(logits), 1).numpy()[np.random.RandomState(seed).permutation(len(logits))]
    scores = [np.exp((q * (np.log(q) - np.log(q.mean(0)))).sum(1).mean()) for q in np.array_split(p, splits)]
    return np.mean(scores), np.std(scores)


def test_quality_is_the_formulas_on_the_judges_features(judge, images, tmp_path):
    rng = np.random.default_rng(2)
    x, reference = (rng.integers(0, high, (300, 8, 8, 1), dtype=np.uint8) for high in (256, 200))
    spec = quality.Quality(features="judge", splits=3, kid_subset=50)
    options = quality.extractor(spec, judge, 1, tmp_path)
    found = quality.fidelity(x, reference, spec, options, key="r", cache=tmp_path)
    a, b = (judge.features(Images(s).pixels()).double().numpy() for s in (x, reference))
    assert found["fid"] == pytest.approx(frechet(a, b), rel=1e-3) and found["n"] == 300
    mean, std = inception_score(judge(Images(x).pixels()).double().numpy(), 3)
    assert (found["is_mean"], found["is_std"]) == pytest.approx((mean, std), rel=1e-4)
    same = quality.fidelity(reference, reference, spec, options, key="r", cache=tmp_path)
    assert abs(same["fid"]) < 1e-3 and same["kid_mean"] < found["kid_mean"]
    with pytest.raises(ValueError, match="300 images are wanted of a reference of 100"):
        quality.fidelity(x, reference[:100], spec, options, key="r", cache=tmp_path)
    spec.reference_images = 200
    fewer = quality.fidelity(x, reference, spec, options, key="r", cache=tmp_path)
    assert fewer["fid"] == pytest.approx(frechet(a, b[:200]), rel=1e-3)
    assert quality.protocol(spec, 300).startswith("300 images from scratch against 200 train images")


def test_an_image_is_worse_off_only_by_a_successful_attack(judge, images):
    x = images.pixels()
    up = ood.worst_case(lambda v: -marginal(judge)(v), x, Attack(eps=0.3, steps=5, norm="l2"), seed=0, batch=25)
    assert (marginal(judge)(up) >= marginal(judge)(x)).all() and (up != x).any()


def test_label_consistency(judge, images):
    with torch.no_grad():
        seen = judge(images.pixels()).argmax(1).numpy()
    assert quality.label_consistency(judge, Images(images.x, seen)) == 1
    assert quality.label_consistency(judge, Images(images.x, (seen + 1) % 3)) == 0


def test_inception_weights_without_classifier_give_no_inception_score(judge, tmp_path):
    for name, layer in (("pool", torch.zeros(1008, 4)), ("full", torch.ones(1008, 4))):
        torch.save({"fc.weight": layer}, tmp_path / f"{name}.pth")
        spec = quality.Quality(features="inception", inception=f"{name}.pth")
        options = quality.extractor(spec, judge, 3, tmp_path)
        assert options["isc"] is (name == "full") and options["feature_extractor_weights_path"].endswith(f"{name}.pth")
