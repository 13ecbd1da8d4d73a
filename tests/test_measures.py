"""Fisher scores, calibration, energy landscapes, nearest neighbours, interpolation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.distance import cdist
from scipy.stats import kstest, mannwhitneyu, ttest_1samp
from skimage.metrics import structural_similarity

from advebm import config
from advebm.data.gaussians import Gaussians
from advebm.data.images import Images
from advebm.energy import conditional, marginal
from advebm.evaluation import MEASUREMENTS, calibration, fisher, interpolation, intervals, landscape, neighbours
from advebm.evaluation.generation import Generator, start_images
from advebm.networks.flow import Glow, ResidualFlow
from advebm.networks.resnet import ResNet
from advebm.networks.wrn import WideResNet
from advebm.samplers.pgd import Ascent, Attack
from advebm.samplers.recipes import SGLD, Ascend, Combined, Draw
from advebm.samplers.sgld import Langevin
from advebm.samplers.streams import Streams


@pytest.fixture
def x():
    return torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(2)).double()


@pytest.fixture
def one():
    """A network with one output."""
    torch.manual_seed(3)
    return WideResNet(depth=10, width=1).build((1, 4, 4), 1).eval()


def by_hessian(energy, x):
    """.5 |grad E|^2 - tr(Hess E) of one image (1, C, H, W), from the full Hessian."""
    slope = torch.autograd.functional.jacobian(lambda v: energy(v).sum(), x)
    hessian = torch.autograd.functional.hessian(lambda v: energy(v).sum(), x).view(x.numel(), -1)
    return (slope.square().sum() / 2 - hessian.trace()).item()


@pytest.mark.parametrize("spec", [{}, {"spectral": True}, {"norm": "batch", "activation": "relu"}])
@pytest.mark.parametrize("outputs", [1, 3])
def test_exact_fisher_scores_are_those_of_the_hessian(spec, outputs, x):
    torch.manual_seed(1)
    net = WideResNet(depth=10, width=1, **spec).build((1, 4, 4), outputs).double()
    net(x)  # updates the statistics of batch norm
    net.eval().requires_grad_(False)
    if "spectral" not in spec:
        net.head.weight.mul_(20)  # so that the classes compete
    y = torch.arange(4) % outputs
    assert fisher.piecewise_linear(net)
    found = fisher.exact(net, x, y)
    assert ("joint" in found) is (outputs > 1)
    energies = {"marginal": lambda i: marginal(net), "joint": lambda i: conditional(net, y[i : i + 1])}
    for name, values in found.items():
        assert values.tolist() == pytest.approx([by_hessian(energies[name](i), x[i : i + 1]) for i in range(4)], rel=1e-8)


def test_what_is_piecewise_linear(small):
    assert fisher.piecewise_linear(ResNet(depth=50).build((3, 8, 8), 10))
    assert fisher.piecewise_linear(ResNet(depth=18, norm="batch").build((3, 8, 8), 1).eval())
    for spec in ({"norm": "batch"}, {"norm": "group"}, {"activation": "silu"}):  # the first is in training mode
        assert not fisher.piecewise_linear(WideResNet(depth=10, width=1, **spec).build((1, 8, 8), 3))
    assert not fisher.piecewise_linear(small)
    assert not fisher.piecewise_linear(Glow(kind="glow", levels=1, blocks=1, hidden=4).build((1, 4, 4), 1))

    class Product(torch.nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :1] * x.mean((1, 2, 3))[:, None]

    assert not fisher.piecewise_linear(Product())


def flow(kind):
    torch.manual_seed(0)
    spec = {"glow": Glow, "residual_flow": ResidualFlow}[kind](kind=kind, levels=1, blocks=2, hidden=4)
    net = spec.build((1, 4, 4), 1).double()
    net(torch.rand(8, 1, 4, 4).double())
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return net.eval().requires_grad_(False)


@pytest.mark.parametrize("name", ["joint", "marginal", "glow", "residual_flow"])
def test_hutchinson_agrees_with_the_hessian(name, small, x):
    net = small if name in ("joint", "marginal") else flow(name)

    def energy(v):
        return (conditional(net, torch.ones(len(v), dtype=torch.long)) if name == "joint" else marginal(net))(v)

    copies = x[:1].expand(400, -1, -1, -1)
    found = fisher.hutchinson(energy, copies, 5, Streams(0, "hutchinson", ids=torch.arange(400)))
    assert abs(found.mean().item() - by_hessian(energy, x[:1])) < 4 * found.std().item() / 20
    assert found.std() > 0


def test_symmetric_pixels_quarter_the_score(small, x):
    symmetric = by_hessian(lambda u: marginal(small)((u + 1) / 2), 2 * x[:1] - 1)
    assert by_hessian(marginal(small), x[:1]) == pytest.approx(4 * symmetric)


@pytest.mark.parametrize("spec", [{}, {"activation": "silu"}])
def test_fisher_scores_of_images(spec, images):
    torch.manual_seed(1)
    net = WideResNet(depth=10, width=1, **spec).build((1, 4, 4), 3)
    few, many = (fisher.fisher(net, images, fisher.Fisher(n=40), seed=0, batch=batch).json() for batch in (7, 40))
    assert net.training and few["n"] == 40
    for name in ("joint", "marginal"):
        assert few[name].pop("ways") == many[name].pop("ways") == ("hutchinson" if spec else "exact")
        assert few[name] == pytest.approx(many[name], rel=1e-3, abs=1e-7)
        assert few[name]["score_symmetric"] == few[name]["score"] / 4 and few[name]["se_symmetric"] == few[name]["se"] / 4


def test_fisher_score_of_one_output_has_no_joint(one, images):
    found = fisher.fisher(one, images, fisher.Fisher(n=10), seed=0)
    assert found.joint is None and found.marginal.score >= 0


class Given(torch.nn.Module):
    """A network whose logits are a lookup table, indexed by the first pixel."""

    def __init__(self, logits):
        super().__init__()
        self.logits, self.outputs = torch.nn.Parameter(logits), logits.shape[1]

    def forward(self, x):
        return self.logits[(x[:, 0, 0, 0] * 255).round().long()]


def test_ece_is_torchmetrics():
    from advebm import vision  # lets torchmetrics import torchvision

    assert vision
    from torchmetrics.functional.classification import multiclass_calibration_error

    rng = torch.Generator().manual_seed(0)
    net = Given(1.5 * torch.randn(200, 4, generator=rng, dtype=torch.float64))
    x = np.tile(np.arange(200, dtype=np.uint8)[:, None, None, None], (1, 2, 2, 1))
    images = Images(x, torch.randint(4, (200,), generator=rng).numpy())
    found = calibration.calibration(net, images, calibration.Calibration(), seed=0, batch=30).json()
    wanted = multiclass_calibration_error(net.logits.softmax(1), images.labels(), 4, n_bins=20, norm="l1")
    assert found["ece"] == pytest.approx(wanted.item(), abs=1e-6) and found["n"] == 200
    assert found == calibration.calibration(net, images, calibration.Calibration(), seed=0, batch=200).json()
    assert sum(b["count"] for b in found["bins"]) == 200 and len(found["bins"]) == 20
    assert 0 <= found["ece_ci"][0] < found["ece_ci"][1]
    again = sum(b["count"] * abs(b["accuracy"] - b["confidence"]) for b in found["bins"] if b["count"]) / 200
    assert found["ece"] == pytest.approx(again)


def test_sure_and_right_is_calibrated_and_borders_belong_to_the_lower_bin():
    assert calibration.error(np.ones(5), np.ones(5), 20) == 0
    assert calibration.bin_of(np.array([0.04, 0.05, 0.06, 0.95, 1.0]), 20).tolist() == [0, 0, 1, 18, 19]


def test_without_classes_there_is_no_calibration(one, images, tmp_path):
    found = calibration.calibration(one, images, calibration.Calibration(), seed=0)
    assert found.json() == {"ece": None, "ece_ci": None, "accuracy": None, "confidence": None, "n": 60, "bins": []}
    with Image.open(MEASUREMENTS["calibration"].report.picture(found, None, tmp_path / "none.png", "none")) as picture:
        assert picture.width > 100


def test_landscape_of_a_quadratic_rises_by_its_radius(images):
    class Quadratic(torch.nn.Module):  # E(x, y) = |x - c|^2, c the first image
        outputs = 3

        def __init__(self):
            super().__init__()
            self.centre = torch.nn.Parameter(images.pixels()[:1])

        def forward(self, x):
            return -(x - self.centre).square().flatten(1).sum(1)[:, None].expand(-1, 3)

    spec = landscape.Landscape(images=3, radius=0.7, points=5)
    numbers, energies = landscape.landscape(Quadratic(), images, spec, seed=0, batch=7)
    assert numbers.rise == pytest.approx(0.49, abs=1e-5) and numbers.images == 3  # the gradient averages to 0 over a circle
    side = np.linspace(-0.7, 0.7, 5)
    assert energies.shape == (3, 5, 5) and np.allclose(energies[0], side[:, None] ** 2 + side**2, atol=1e-5)
    assert np.allclose(energies[:, 2, 2], 0, atol=1e-5)
    again, _ = landscape.landscape(Quadratic(), images, spec, seed=0, batch=500)
    assert (again.rise, *again.rise_ci) == pytest.approx((numbers.rise, *numbers.rise_ci), rel=1e-4)


def test_the_rise_has_students_interval_over_images_and_few_planes_are_drawn(wrn, images):
    spec = landscape.Landscape(images=12, radius=0.5, points=3)
    numbers, energies = landscape.landscape(wrn.eval(), images, spec, seed=0)
    rises = [landscape.landscape(wrn, images, replace(spec, images=n), seed=0)[0].rise * n for n in range(2, 13)]
    each = np.diff(rises)  # the rise of images 3 to 12, as image i has the same plane whatever their number
    first = np.array([rises[0] / 2, rises[0] / 2])
    assert numbers.rise == pytest.approx(np.r_[first, each].mean(), rel=1e-4) and len(energies) == landscape.PICTURED
    low, high = numbers.rise_ci
    assert low < numbers.rise < high and high - numbers.rise == pytest.approx(numbers.rise - low)
    values = np.random.default_rng(0).normal(size=9)
    assert intervals.mean(values) == pytest.approx(list(ttest_1samp(values, 0).confidence_interval(0.95)))


def test_landscape_of_classes_and_of_one_output(wrn, one, images):
    spec = landscape.Landscape(images=2, radius=1.0, points=3)
    for net in (wrn, one):
        _, energies = landscape.landscape(net, images, spec, seed=0)
        x, y = images[:2].pixels(), images[:2].labels()
        u, v = landscape.plane(x.shape[1:], Streams(0, "landscape", ids=torch.arange(2)))[1].view(2, 1, 1, 4, 4)
        assert abs((u * v).sum()) < 1e-6 and (u * u).sum() == pytest.approx(1) == (v * v).sum().item()
        energy = conditional(net, y[1:]) if net.outputs > 1 else marginal(net)
        with torch.no_grad():
            wanted = energy(x[1:] - u + v) - energy(x[1:])
        assert energies[1, 0, 2] == pytest.approx(wanted.item(), abs=1e-5)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 11, 9), (1, 28, 28), (3, 6, 7), (1, 4, 4)])
def test_ssim_is_scikit_images(shape):
    rng = np.random.default_rng(0)
    a = rng.random((3, *shape))
    b = (0.6 * a[:2] + 0.4 * rng.random((2, *shape))).clip(0, 1)
    a[2] = 0  # without contrast
    found = neighbours.ssim(torch.from_numpy(a)[:, None], torch.from_numpy(b)[None])
    size = {6: 5, 4: 3}.get(min(shape[1:]))
    wanted = [[structural_similarity(p, q, win_size=size, data_range=1, channel_axis=0) for q in b] for p in a]
    assert np.abs(found.numpy() - wanted).max() < 1e-10
    rounded = neighbours.ssim(torch.from_numpy(a)[:, None].float(), torch.from_numpy(b)[None].float())
    assert np.abs(rounded.numpy() - wanted).max() < 1e-4


def squares(x, name):
    """Features of images: the squares of their pixels."""
    return torch.from_numpy(x / 255).flatten(1).square()


def test_neighbours(tmp_path):
    rng = np.random.default_rng(0)
    train, test, made = (Images(rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)) for n in (70, 20, 30))
    made.x[1], made.x[20] = train.x[5], train.x[69]  # copies, one of which is shown
    spec = neighbours.Neighbours(features="judge", samples=4, nearest=3)
    result, found = neighbours.neighbours({"copies": made}, train, test, spec, squares, batch=7)
    numbers = result.json()
    for way, power in (("l2", 1), ("features", 2)):
        a, b, c = ((images.x.reshape(len(images.x), -1) / 255) ** power for images in (made, train, test))
        distances = cdist(a, b)
        nearest = distances.min(1)
        wanted = {"min": 0.0, "q05": np.quantile(nearest, 0.05), "median": np.median(nearest)}
        assert numbers["copies"][way] == pytest.approx(wanted, abs=1e-5) and numbers["copies"][way]["min"] == 0
        assert (getattr(found["copies"], way) == distances.argsort(1)[:4, :3]).all()
        of_test = mannwhitneyu(nearest, cdist(c, b).min(1), alternative="less", use_continuity=False, method="asymptotic")
        assert numbers["copies"]["copying"][way]["p"] == pytest.approx(of_test.pvalue)
    assert numbers["copies"]["ssim"]["max"] == pytest.approx(1) and numbers["copies"]["ssim"]["n"] == 4
    assert numbers["test images"]["l2"]["min"] > 1 and numbers["test images"]["n"] == 20
    assert [index[1, 0] for index in found["copies"]] == [5, 5, 5] and numbers["test images"]["copying"] == {}
    again = neighbours.neighbours({"copies": made}, train, test, spec, squares, batch=30)[0].json()
    assert config.flat(again) == pytest.approx(config.flat(numbers), rel=1e-5)
    for samples in ({"copies": made.x}, {}):
        drawn = neighbours.Nearest(samples, train.x, found)
        file = MEASUREMENTS["neighbours"].report.picture(result, drawn, tmp_path / "nearest.png", "title")
        with Image.open(file) as picture:
            assert picture.width > 100


def test_copies_are_found_and_held_out_images_are_not():
    """The p of copies is tiny, that of other images of the same source uniform; with ties it is scipy's."""
    rng = np.random.default_rng(1)
    train, test = rng.normal(size=(300, 4)), rng.normal(size=(100, 4))

    def nearest(x):
        return cdist(x, train).min(1)

    copies = neighbours.copying(nearest(train[:80]), nearest(test))
    mixed = neighbours.copying(nearest(np.concatenate([train[:40], test[:40]])), nearest(test))
    assert copies.p < 1e-30 and copies.z < -10 and mixed.p < 1e-4
    p = [neighbours.copying(*np.split(nearest(rng.normal(size=(150, 4))), [60])).p for _ in range(300)]
    assert kstest(p, "uniform").pvalue > 0.01
    for made, held_out in (rng.integers(0, 4, (2, 30)), (np.arange(9), np.arange(30) % 7 - 1)):
        theirs = mannwhitneyu(made, held_out, alternative="less", use_continuity=False, method="asymptotic").pvalue
        assert neighbours.copying(made, held_out).p == pytest.approx(theirs, rel=1e-9)
    same = neighbours.copying(np.ones(5), np.ones(7))
    assert (same.z, same.p) == (0, 0.5)


RECIPES = {
    "noisy": SGLD(recipe="sgld", start="gaussians", conditional=True, chain=Langevin(steps=3, step_size=0.5, noise=0.05)),
    "combined": Combined(
        recipe="combined",
        attack=Attack(eps=0.5, steps=3, norm="l2"),
        contrast=0.9,
        chain=Langevin(steps=3, step_size=0.5, noise=0.05),
    ),
    "ascent": Ascend(recipe="ascent", start="uniform", ascent=Ascent(steps=3, step_size=0.2)),
}


@pytest.fixture
def starts(images):
    gaussians = Gaussians.fit(images, ridge=1e-3)
    return {"gaussians": gaussians.sample, "uniform": lambda y, streams: streams.uniform(1, 4, 4)}


@pytest.mark.parametrize("name", RECIPES)
def test_ends_of_a_row_are_what_the_recipe_makes_of_its_ends(name, wrn, starts):
    net, recipe, y = wrn.eval(), RECIPES[name], torch.tensor([0, 1, 2, 0, 1])
    ids, others = torch.arange(5), torch.arange(5) + 15

    def made(t):
        one, other = (Streams(0, "sample", name, ids=i) for i in (ids, others))
        return interpolation.between(net, recipe, y, starts, torch.full((5,), t), one, other)

    plain = recipe(net, y, starts, Streams(0, "sample", name, ids=ids))
    assert torch.equal(made(0.0), list(plain.values())[-1])

    b = starts[recipe.start](y, Streams(0, "sample", name, ids=others))
    streams = Streams(0, "sample", name, ids=ids)
    starts[recipe.start](y, streams)  # advances the streams to where the recipe starts its chain
    of_b = recipe(net, y, {recipe.start: lambda y, streams: b}, streams)
    assert torch.equal(made(1.0), list(of_b.values())[-1])


def test_between_the_ends_the_start_is_between(wrn, starts):
    still = SGLD(recipe="sgld", start="uniform", chain=Langevin(steps=0, step_size=1, noise=0))
    y, ids = torch.zeros(2, dtype=torch.long), torch.arange(2)
    one, other, a, b = (Streams(0, "start", ids=i) for i in (ids, ids + 9, ids, ids + 9))
    found = interpolation.between(wrn, still, y, starts, torch.tensor([0.25, 0.5]), one, other)
    a, b = starts["uniform"](y, a), starts["uniform"](y, b)
    assert torch.allclose(found[0], 0.75 * a[0] + 0.25 * b[0]) and torch.allclose(found[1], (a[1] + b[1]) / 2)


def test_interpolation(wrn, starts, tmp_path):
    spec = interpolation.Interpolation(rows=4, columns=5)
    recipes = {**RECIPES, "draw": Draw(recipe="draw")}
    make = Generator(net=wrn, starts=starts, classes=3)
    numbers, pictures = interpolation.interpolation(make, recipes, spec, seed=0, batch=7)
    assert numbers.json()["draw"] == {"smoothness": None} and pictures["draw"] is None
    again, other = interpolation.interpolation(make, recipes, spec, seed=0, batch=20)
    for name in RECIPES:
        assert pictures[name].shape == (4, 5, 4, 4, 1)
        assert np.abs(pictures[name].astype(int) - other[name]).max() <= 1
        assert numbers.named[name].smoothness == pytest.approx(again.named[name].smoothness, rel=1e-3)
    for blocks in (pictures, {"draw": None}, {}):
        file = MEASUREMENTS["interpolation"].report.picture(numbers, blocks, tmp_path / "rows.png", "title")
        with Image.open(file) as picture:
            assert picture.width > 100


def test_smoothness_of_a_line_and_of_a_jump():
    a, b = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
    line = torch.stack([torch.lerp(a, b, t) for t in torch.linspace(0, 1, 5)], 1)
    assert interpolation.smoothness(line) == pytest.approx(1 / 4)
    assert interpolation.smoothness(torch.stack([a, a, b, b], 1)) == 1


def test_no_two_images_start_from_the_same_outlier_while_there_are_others(images):
    gaussians = Gaussians.fit(images, ridge=0.01)
    few = Images(images.x[:7], None)
    draw = start_images(gaussians, few)["outliers"]
    ids = torch.arange(14)
    starts = draw(ids % 3, Streams(0, "a", ids=ids))
    assert {x.numpy().tobytes() for x in starts[:7]} == {x.numpy().tobytes() for x in few.pixels()}
    assert torch.equal(starts[7:], starts[:7]), "outliers are reused once there are no others"
    assert torch.equal(draw(ids[3:5] % 3, Streams(0, "a", ids=ids[3:5])), starts[3:5]), "the batch must not matter"
