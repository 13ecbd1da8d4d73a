"""The audit in small: what the package measures of a lightly trained network, against independent.py. test_audit_digits.py
does the same for the trained models of a study."""

import independent as own
import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from advebm import networks
from advebm.data import images as files
from advebm.data.images import Images
from advebm.evaluation import calibration, features, fisher, neighbours, ood, quality, robustness
from advebm.networks.wrn import WideResNet
from advebm.samplers.apgd import AutoPGD

CLASSES, EPS = 5, 0.1


@pytest.fixture(scope="module")
def digits():
    """Training and test images of five digits, and uniform noise with three tenths of their contrast."""
    x, y = load_digits(n_class=CLASSES, return_X_y=True)
    x = (x.reshape(-1, 8, 8, 1) * 255 / 16).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 77, (60, 8, 8, 1), dtype=np.uint8)
    return Images(x[:400], y[:400]), Images(x[400:520], y[400:520]), Images(noise)


def trained(digits, outputs: int, norm: str, folder):
    """A network after 30 steps, as the package has it and as this audit reads it."""
    torch.manual_seed(0)
    net = WideResNet(depth=10, width=1, norm=norm).build((1, 8, 8), outputs)
    x, y = digits[0].pixels(), digits[0].labels()
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for step in range(30):
        part = torch.arange(32 * step, 32 * step + 32) % len(x)
        f = net(x[part])
        if outputs > 1:
            loss = torch.nn.functional.cross_entropy(f, y[part])
        else:  # digits against noise
            noise = torch.rand(x[part].shape, generator=torch.Generator().manual_seed(step))
            loss = torch.nn.functional.softplus(-f).mean() + torch.nn.functional.softplus(net(noise)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    file = folder / f"{outputs}-{norm}.safetensors"
    networks.save(file, net)
    return networks.load(file)[0], own.Wrn.load(file)


@pytest.fixture(scope="module")
def nets(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit")
    kinds = {"classifier": (CLASSES, "none"), "judge": (CLASSES, "batch"), "detector": (1, "none")}
    return {name: trained(digits, *kind, folder) for name, kind in kinds.items()}


@torch.no_grad()
@pytest.mark.parametrize("name", ["classifier", "judge", "detector"])
def test_logits_and_scores(nets, digits, name):
    theirs, plain = nets[name]
    x = digits[1].pixels()
    assert torch.allclose(theirs(x), plain(x), atol=1e-5)
    for score, mine in (("energy", own.energy), ("grad_norm", own.grad_norm), ("max_softmax", own.max_softmax)):
        if plain.header["outputs"] > 1 or score != "max_softmax":
            found = ood.scores(ood.SCORES[score](theirs), x, 50)
            value = mine(plain)(x).detach().numpy()
            assert np.allclose(found, value, atol=1e-4, rtol=1e-4)


def test_accuracy_clean_and_attacked(nets, digits):
    theirs, plain = nets["classifier"]
    attacks = {"pgd20": robustness.Against(eps=EPS, steps=20)}
    spec = robustness.Robustness(attacks=attacks, curve=robustness.Curve(radii=[EPS], attack=AutoPGD(steps=20, restarts=1)))
    found = robustness.robustness(theirs, digits[1], spec, seed=0)
    x, y = own_images(digits[1])
    with torch.no_grad():
        clean = float((plain(x).argmax(1).numpy() == y).mean())
    assert found.clean == clean and np.allclose(found.clean_ci, own.wilson(clean, len(x)), atol=1e-6)
    low, high = found.attacks["pgd20"].ci
    assert low <= own.robust(plain, x, y, eps=EPS, steps=20, tries=1, plain=True).mean() <= high
    strong = own.robust(plain, x, y, eps=EPS, steps=20, tries=3, plain=False).mean()
    assert 0 < strong < clean  # so that the next lines can fail
    assert found.attacks["pgd20"].accuracy - strong <= 0.04 and found.curve.accuracy[1] - strong <= 0.04  # 4 of 120 images


def attacked(nets, digits, name, score, how, eps):
    """What the package finds of noise by a score, and what is needed to find it again."""
    theirs, plain = nets[name]
    spec = ood.Ood(n=60, attacked=12, radii={how: [eps]}, attack=ood.Descents(steps=20, restarts=6), rounds=2)
    result, _ = ood.ood(theirs, score, digits[1], {"noise": digits[2]}, spec, seed=0)
    inside, outside = (own_images(part)[0][:60] for part in digits[1:])
    return result.named["noise"].scores[score], plain, inside, outside


@pytest.mark.parametrize(
    "name, how, eps", [("classifier", "l2", 0.8), ("classifier", "linf", 0.1), ("detector", "l2", 1.0)]
)
def test_detection_standard_and_worst(nets, digits, name, how, eps):
    found, plain, inside, outside = attacked(nets, digits, name, "energy", how, eps)
    score = own.energy(plain)
    with torch.no_grad():
        s_in, s_out = score(inside).numpy(), score(outside).numpy()
    assert found.auc == pytest.approx(own.auc(s_in, s_out)) and found.fpr95 == pytest.approx(own.fpr95(s_in, s_out))
    aims = [score, *(lambda x, k=k: plain(x)[:, k] for k in range(plain.header["outputs"]))]
    best, _ = own.worst(aims, score, outside[:12], inside, eps=eps, how=how, tries=3, steps=25)
    with torch.no_grad():
        mine = own.auc(s_in, score(best).numpy())
    worst = found.worst[how]
    assert 0.01 < worst.auc < found.auc - 0.05  # so that the attack matters
    assert worst.auc - mine <= 0.02  # test_audit_digits.py asks for .01


def test_detection_by_the_gradient_s_length(nets, digits):
    found, plain, inside, outside = attacked(nets, digits, "detector", "grad_norm", "l2", 0.8)
    score, aims = own.grad_norm(plain), [own.grad_norm(plain.smooth(sharpness)) for sharpness in (10.0, 30.0)]
    best, _ = own.worst(aims, score, outside[:12], inside, eps=0.8, how="l2", tries=1, steps=20)
    s_in, s_best = (score(x).detach().numpy() for x in (inside, best))
    assert found.worst["l2"].auc - own.auc(s_in, s_best) <= 0.02


def test_sample_quality(nets, digits):
    judge, plain = nets["judge"]
    rng = np.random.default_rng(1)
    noisy = np.clip(digits[0].x[200:].astype(int) + rng.integers(-25, 26, digits[0].x[200:].shape), 0, 255).astype(np.uint8)
    made = quality.balanced(Images(noisy, digits[0].y[200:]), 100)
    spec = quality.Quality(features="judge")
    using = features.FeatureNetwork(name=features.register_judge(judge, 1), layers=("features", "logits"))
    found = quality.fidelity(made, quality.reference(digits[0], 100, using), spec, using, name="made")
    (x, y), (ref, ref_y) = own_images(Images(noisy, digits[0].y[200:])), own_images(digits[0])
    kept, against = own.stratified(y, 100, CLASSES), own.stratified(ref_y, 100, CLASSES)
    x, y, ref, ref_y = x[kept], y[kept], ref[against], ref_y[against]
    assert (made.pixels() == x).all() and (made.y == y).all()
    with torch.no_grad():
        a, b, logits = plain.features(x).numpy(), plain.features(ref).numpy(), plain(x).numpy()
    assert found.fid == pytest.approx(own.fid(a, b), rel=1e-3)
    assert found.fid_se == pytest.approx(own.jackknife(a, b), rel=1e-2)
    assert found.kid == pytest.approx(own.kid(a, b, y, ref_y), abs=1e-5)
    assert (found.precision, found.recall) == pytest.approx(own.precision_recall(a, b), abs=0.0101)
    assert found.is_mean == pytest.approx(own.inception_score(logits), rel=1e-4)
    assert quality.label_consistency(judge, made) == pytest.approx((logits.argmax(1) == y).mean())


def test_calibration(nets, digits):
    theirs, plain = nets["classifier"]
    found = calibration.calibration(theirs, digits[1], calibration.Calibration(), seed=0)
    x, y = own_images(digits[1])
    with torch.no_grad():
        p = plain(x).double().softmax(1).numpy()
    assert found.ece == pytest.approx(own.ece(p, y), abs=1e-6) and found.confidence == pytest.approx(p.max(1).mean())


def test_fisher_scores(nets, digits):
    theirs, plain = nets["classifier"]
    found = fisher.fisher(theirs, digits[1], fisher.Fisher(n=6), seed=0)
    wide = own.Wrn({name: weight.double() for name, weight in plain.weights.items()}, plain.header)
    x, y = own_images(digits[1][:6])
    marginal = own.fisher(lambda z: -torch.logsumexp(wide(z), 1), x)
    joint = own.fisher(lambda z: -wide(z).gather(1, torch.from_numpy(y)[:, None])[:, 0], x)
    for score, values in ((found.marginal, marginal), (found.joint, joint)):
        assert score.score == pytest.approx(values.mean(), rel=1e-3)
        assert score.se == pytest.approx(values.std(ddof=1) / 6**0.5, rel=1e-2)


def test_neighbours(digits):
    spec = neighbours.Neighbours(features="judge", samples=3)
    found, _ = neighbours.neighbours({}, digits[0][:80], digits[1][:50], spec, lambda x, name: torch.from_numpy(x / -255.0))
    (a, _), (b, _) = own_images(digits[1][:50]), own_images(digits[0][:80])
    near, similarity = found.named["test images"], own.similar(a[:3], b)
    distances = own.nearest(a, b)
    for by in (near.l2, near.features):  # these features have the distances of pixels
        assert [by.min, by.q05, by.median] == pytest.approx(np.quantile(distances, [0, 0.05, 0.5]).tolist())
    assert [near.ssim.max, near.ssim.median] == pytest.approx([similarity.max(), np.median(similarity)])


def test_files_are_read_as_the_package_writes_them(digits, tmp_path):
    files.save(tmp_path / "x.npz", digits[1])
    x, y = own.images(tmp_path / "x.npz")
    assert (x == digits[1].pixels()).all() and (y == digits[1].y).all()


def own_images(images: Images):
    return torch.from_numpy(images.x.astype(np.float32) / 255).permute(0, 3, 1, 2).contiguous(), images.y
