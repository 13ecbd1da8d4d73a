"""The audit of study `digits`: the numbers that its pages show for a few methods, recomputed by independent.py from the
model files, the samples and the prepared images, with stronger attacks. Part of `make soak`, in a tree where `dvc repro -P`
has run, or with ADVEBM_AUDIT=folder of such a tree; some 10 minutes a method on one core."""

import json
import os
from pathlib import Path

import independent as own
import numpy as np
import pytest
import torch

pytestmark = pytest.mark.soak
FOLDER = Path(os.environ.get("ADVEBM_AUDIT", Path(__file__).parents[2]))
DATA, MODELS, RESULTS = FOLDER / "data/digits", FOLDER / "models/digits", FOLDER / "results/digits"
METHODS = ["robust_jem", "jempp", "at_ebm"]
LOOSE = 0.015  # of an AUC: by how much a stronger attack may lower the package's; digits.md has the most that it did
TRIES, SEARCHES = 36, 1000  # attacks on detection, four starts each; steps of a search without gradients
SHARPNESS = (10.0, 30.0, 100.0)  # of the networks whose kinks are smooth


class Rows(list):
    """Lines (number, the package's, this audit's, whether they agree); `check` prints those that the filter leaves."""

    def near(self, name: str, ours: float, theirs: float, tolerance: float) -> None:
        self.append((name, ours, theirs, abs(ours - theirs) <= tolerance))

    def bound(self, name: str, ours: float, theirs: float, loose: float) -> None:
        """An upper bound by an attack, which a stronger attack lowers by at most `loose`."""
        self.append((name, ours, theirs, ours - theirs <= loose))

    def check(self) -> None:
        for name, ours, theirs, agrees in self:
            print(f"{name:<55} {ours:10.5f} {theirs:10.5f} {'' if agrees else '  <-- differs'}", flush=True)
        assert self and all(agrees for *_, agrees in self), [row for row in self if not row[-1]]


def read(method: str, name: str) -> dict:
    file = RESULTS / method / f"{name}.json"
    if not file.is_file():
        pytest.skip(f"{file} is missing: `dvc repro -P` makes it")
    return {key: value for key, value in json.loads(file.read_text()).items() if key != "checksum"}


def model(method: str) -> own.Wrn:
    return own.Wrn.load(MODELS / method / "model.safetensors")


@pytest.fixture(params=METHODS)
def method(request):
    if not (MODELS / request.param / "model.safetensors").is_file():
        pytest.skip(f"no models in {FOLDER}: `dvc repro -P` makes them; ADVEBM_AUDIT names another tree")
    return request.param


@pytest.fixture
def test():
    return own.images(DATA / "test.npz")


@torch.no_grad()
def test_the_network_has_the_package_s_logits(method, test):
    from advebm import networks

    for name in (method, "judge"):
        ours, _ = networks.load(MODELS / name / "model.safetensors")
        assert torch.allclose(ours(test[0]), model(name)(test[0]), atol=2e-5, rtol=1e-4)


def test_accuracy_and_robustness(method, test):
    ours, net, (x, y) = read(method, "robustness"), model(method), test
    if net.header["outputs"] == 1:
        assert ours["clean"] is None and all(entry["accuracy"] is None for entry in ours["attacks"].values())
        return
    rows = Rows()
    with torch.no_grad():
        logits = net(x)
    clean = float((logits.argmax(1).numpy() == y).mean())
    rows.near("clean", ours["clean"], clean, 0)
    for end, o, t in zip(("low", "high"), ours["clean_ci"], own.wilson(clean, len(x)), strict=True):
        rows.near(f"clean, {end} end", o, t, 1e-6)
    pgd = ours["attacks"]["pgd20"]
    plain = float(own.robust(net, x, y, eps=0.1, steps=20, tries=1, plain=True).mean())
    rows.append(("pgd20, the same attack written again", pgd["accuracy"], plain, pgd["ci"][0] <= plain <= pgd["ci"][1]))
    strong = own.robust(net, x, y, eps=0.1, steps=100, tries=20, plain=False)
    rows.bound("pgd20, 100 steps, 20 restarts, by margins", pgd["accuracy"], float(strong.mean()), 0.025)
    attacked = read(method, "autoattack")
    rows.bound("AutoAttack, first 50", attacked["linf"]["accuracy"], float(strong[: attacked["n"]].mean()), 0.0)
    wide = float(own.robust(net, x, y, eps=0.2, steps=20, tries=5, plain=True).mean())
    (low, high), accuracy = (ours["attacks"]["pgd20_wide"][key] for key in ("ci", "accuracy"))
    rows.append(("pgd20_wide", accuracy, wide, low - 1e-9 <= wide <= high))
    for eps, accuracy in zip(ours["curve"]["eps"], ours["curve"]["accuracy"], strict=True):
        if eps:
            found = own.robust(net, x, y, eps=eps, steps=60, tries=8, plain=False).mean()
            rows.bound(f"curve, Linf {eps}", accuracy, float(found), 0.06)  # the package: 20 steps, by cross-entropy
    rows.check()


def test_calibration(method, test):
    ours, net, (x, y) = read(method, "calibration"), model(method), test
    if net.header["outputs"] == 1:
        assert ours["ece"] is None
        return
    with torch.no_grad():
        p = net(x).double().softmax(1).numpy()
    rows = Rows()
    rows.near("ECE", ours["ece"], own.ece(p, y), 1e-5)
    for end, o, t in zip(("low", "high"), ours["ece_ci"], own.ece_interval(p, y), strict=True):
        rows.near(f"ECE, {end} end", o, t, 2e-3)  # both are bootstraps
    rows.near("confidence", ours["confidence"], float(p.max(1).mean()), 1e-6)
    rows.check()


def test_detection(method, test):
    ours, others, net, inside = read(method, "ood"), read("scores", method), model(method), test[0]
    alone = net.header["outputs"] == 1
    scores = {"energy": own.energy(net), "grad_norm": own.grad_norm(net)}
    if not alone:
        scores |= {"max_softmax": own.max_softmax(net), "logit": lambda x: net(x).amax(1)}
    rows, s_in = Rows(), {name: score(inside).detach().numpy() for name, score in scores.items()}
    for place in sorted(path.stem for path in (DATA / "out").glob("*.npz")):
        outside = own.images(DATA / "out" / f"{place}.npz")[0]
        entries = ours[place]["scores"] | others[place]["scores"]
        for name, score in scores.items():
            entry, s_out = entries[name], score(outside).detach().numpy()
            rows.near(f"{place} {name} AUC", entry["auc"], own.auc(s_in[name], s_out), 1e-5)
            rows.near(f"{place} {name} FPR95", entry["fpr95"], own.fpr95(s_in[name], s_out), 1e-9)
            for end, o, t in zip(("low", "high"), entry["auc_ci"], own.auc_interval(s_in[name], s_out), strict=True):
                rows.near(f"{place} {name} AUC, {end} end", o, t, 1e-4)
            if place == "inverted":
                continue
            aims, tries = [score], TRIES
            if name in ("energy", "logit", "max_softmax") and not alone:
                aims = [score, *(class_aim(net, name, k) for k in range(10))]
            if name == "grad_norm":
                aims, tries = [own.grad_norm(net.smooth(sharpness)) for sharpness in SHARPNESS], TRIES // 4
            for how, worst in entry["worst"].items():
                x = outside[: worst["n"]]
                best, _ = own.worst(aims, score, x, inside, eps=worst["eps"], how=how, tries=tries)
                if name == "grad_norm":
                    best = own.shuffled(score, x, best, eps=worst["eps"], how=how, tries=SEARCHES)
                found = own.auc(s_in[name], score(best).detach().numpy())
                rows.bound(f"{place} {name} worst, {how} {worst['eps']}", worst["auc"], found, LOOSE)
                print(rows[-1], flush=True)
    rows.check()


def class_aim(net: own.Wrn, name: str, k: int) -> own.Score:
    """What lifts the score towards class k: its logit, or the log of its probability."""
    if name == "max_softmax":
        return lambda x: net(x).log_softmax(1)[:, k]
    return lambda x: net(x)[:, k]


@torch.no_grad()
def test_quality(method):
    ours, judge, rows = read(method, "quality"), model("judge"), Rows()
    splits = {name: own.images(DATA / f"{name}.npz") for name in ("train", "validation", "test")}
    sets = {file.stem: own.images(file) for file in sorted((RESULTS / method / "samples").glob("*.npz"))}
    for name, (x, y) in sets.items():
        entry, (ref, ref_y) = ours[name], splits["train"]
        kept = own.stratified(y, entry["n"]) if y is not None else np.arange(entry["n"])
        rows.near(f"{name} n", entry["n"], len(kept), 0)
        against = own.stratified(ref_y, entry["reference_n"])
        quality(rows, name, entry, judge, x[kept], None if y is None else y[kept], ref[against], ref_y[against])
    buffer = MODELS / method / "replay_buffer.npz"
    if buffer.is_file():
        x = confident(model(method), own.images(buffer)[0], ours["replay_buffer"]["n"])
        ref = torch.cat([part for part, _ in splits.values()])
        ref_y = np.concatenate([y for _, y in splits.values()])
        kept = own.stratified(ref_y, len(ref))
        rows.near("replay_buffer reference_n", ours["replay_buffer"]["reference_n"], len(kept), 0)
        quality(rows, "replay_buffer", ours["replay_buffer"], judge, x, None, ref[kept], ref_y[kept])
    rows.check()


def quality(rows: Rows, name: str, entry: dict, judge: own.Wrn, x, y, ref, ref_y) -> None:
    a, b = judge.features(x).numpy(), judge.features(ref).numpy()
    rows.near(f"{name} FID", entry["fid"], own.fid(a, b), 1e-3)
    rows.near(f"{name} FID's error", entry["fid_se"], own.jackknife(a, b), 1e-3)
    rows.near(f"{name} KID", entry["kid"], own.kid(a, b, y, ref_y), 1e-4)
    error = own.kid_error(a, b, y, ref_y)
    rows.near(f"{name} KID's error", entry["kid_se"], error, 0.01 * error)
    precision, recall = own.precision_recall(a, b)
    rows.near(f"{name} precision", entry["precision"], precision, 0.0041)  # distances in float32 there: two images
    rows.near(f"{name} recall", entry["recall"], recall, 0.0041)
    rows.near(f"{name} Inception Score", entry["is_mean"], own.inception_score(judge(x).numpy()), 1e-3)
    if y is not None:
        consistent = float((judge(x).argmax(1).numpy() == y).mean())
        rows.near(f"{name} label consistency", entry["label_consistency"], consistent, 1e-9)
        for k, value in enumerate(entry["fid_per_class"]):
            rows.near(f"{name} FID of class {k}", value, own.fid(a[y == k], b[ref_y == k]), 5e-3)


def confident(net: own.Wrn, x, n: int):
    """JEM++'s choice from its replay buffer: the n / K most confident of each class, then the most confident others."""
    p = net(x).double().softmax(1)
    sure, seen = own.max_softmax(net)(x).numpy(), p.argmax(1).numpy()
    order = np.argsort(-sure, kind="stable")
    chosen = [i for k in range(p.shape[1]) for i in order[seen[order] == k][: n // p.shape[1]]]
    rest = [i for i in order if i not in set(chosen)][: n - len(chosen)]
    return x[sorted(chosen + rest)]


def test_fisher_scores(method, test):
    ours, net, (x, y) = read(method, "fisher"), model(method), test
    wide = own.Wrn({name: weight.double() for name, weight in net.weights.items()}, net.header)
    rows, most = Rows(), 500
    values = own.fisher(lambda z: -torch.logsumexp(wide(z), 1), x[:most])
    rows.near("marginal", ours["marginal"]["score"], values.mean(), 2e-3 * values.mean())
    rows.near("its error", ours["marginal"]["se"], values.std(ddof=1) / most**0.5, 2e-3 * values.mean())
    if ours["joint"] is not None:
        joint = own.fisher(lambda z: -wide(z).gather(1, torch.from_numpy(y[:most, None]))[:, 0], x[:most])
        rows.near("joint", ours["joint"]["score"], joint.mean(), 2e-3 * joint.mean())
    rows.check()


def test_neighbours(method, test):
    ours, (train, _), rows = read(method, "neighbours"), own.images(DATA / "train.npz"), Rows()
    sets = {name: own.images(RESULTS / method / "samples" / f"{name}.npz")[0] for name in ours if name != "test images"}
    ways = {"l2": lambda x: x, "features": torch.no_grad()(model("judge").features)}
    for name, x in {**sets, "test images": test[0]}.items():
        entry = ours[name]
        for way, of in ways.items():
            distances = own.nearest(of(x), of(train))
            for key, q in (("min", 0.0), ("q05", 0.05), ("median", 0.5)):
                rows.near(f"{name} {way} {key}", entry[way][key], float(np.quantile(distances, q)), 1e-5)
        similarity = own.similar(x[: entry["ssim"]["n"]], train)
        rows.near(f"{name} SSIM max", entry["ssim"]["max"], similarity.max(), 1e-6)
        rows.near(f"{name} SSIM median", entry["ssim"]["median"], float(np.median(similarity)), 1e-6)
    rows.check()
