"""Samples in bfloat16 compared with the same samples in float32, from a partly trained network."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from advebm import config
from advebm.commands.prepare import prepare
from advebm.data import images
from advebm.data.gaussians import Gaussians
from advebm.evaluation import calibration, features, fisher, landscape, ood, quality, robustness
from advebm.evaluation.frechet import fitted, frechet, jackknife
from advebm.methods.base import Context
from advebm.networks import passes
from advebm.networks.flow import Glow, ResidualFlow
from advebm.networks.passes import Passes
from advebm.samplers.apgd import AutoPGD
from advebm.samplers.recipes import SGLD
from advebm.samplers.sgld import Langevin
from advebm.samplers.streams import Streams
from advebm.training import fit


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Digits' robust_jem after 200 steps, its judge after 100, the validation images, and the class Gaussians."""
    folder = tmp_path_factory.mktemp("digits")
    prepare(folder, study="digits", quiet=True)
    train, validation = (images.load(folder / f"{name}.npz") for name in ("train", "validation"))
    gaussians = Gaussians.fit(train, ridge=2.5e-5)
    entry, nets = config.read("params.yaml", "digits"), []
    for name, steps in (("robust_jem", 200), ("judge", 100)):
        model = config.model(entry, name)
        training = replace(model.training, epochs=steps / (len(train.x) // 64), record_every=steps)
        torch.manual_seed(0)
        net = model.network.build((1, 8, 8), 10)
        context = Context(0, (1, 8, 8), 10, gaussians, "cpu")
        nets.append(fit(model.method, net, train, validation, training, context, log=lambda *given: None))
    return *nets, validation, gaussians


def test_fid_of_the_same_seeds_in_bfloat16_differs_by_less_than_its_error(trained, monkeypatch):
    monkeypatch.setattr(passes, "has_bf16", lambda device: True)
    net, judge, validation, gaussians = trained
    chain = Langevin(steps=20, step_size=0.5, noise=0.005, clamp_grad=0.2, clip=True)
    recipe, ids = SGLD(recipe="sgld", start="gaussians", chain=chain, conditional=True), torch.arange(290)
    made, found = {}, {}
    judge.requires_grad_(False)
    real = judge.features(validation.pixels())
    for precision in ("fp32", "bf16"):
        with Passes(precision).sampling(net) as f:
            stages = recipe(f, ids % 10, {"gaussians": gaussians.sample}, Streams(0, "sample", ids=ids))
        made[precision] = images.to_bytes(stages["langevin"])
        found[precision] = judge.features(images.Images(made[precision]).pixels())
    start = judge.features(images.Images(images.to_bytes(stages["start"])).pixels())
    fid = {name: frechet(features, real) for name, features in found.items()}
    assert not np.array_equal(made["fp32"], made["bf16"])
    assert fid["fp32"] < frechet(start, real), "the chains must improve on their starts"
    assert abs(fid["fp32"] - fid["bf16"]) < jackknife(found["fp32"], fitted(real))


@pytest.mark.parametrize(
    "spec",
    [Glow(kind="glow", levels=1, blocks=1, hidden=4), ResidualFlow(kind="residual_flow", levels=1, blocks=1, hidden=4)],
)
def test_flows_are_never_in_bfloat16(monkeypatch, spec):
    monkeypatch.setattr(passes, "has_bf16", lambda device: True)
    torch.manual_seed(0)
    net = spec.build((1, 4, 4), 1)
    net(torch.rand(4, 1, 4, 4))
    drawn = []
    for precision in ("fp32", "bf16"):
        with torch.no_grad(), Passes(precision).sampling(net.eval()) as f:
            drawn.append(f.draw(Streams(0, "draw", ids=torch.arange(3)), 0.7))
    assert torch.equal(*drawn)


def test_the_weights_gradients_are_made_in_the_precision_of_the_loss(monkeypatch):
    """Convolutions forward and backward, with bfloat16 where requested; afterwards the global settings are unchanged."""
    monkeypatch.setattr(passes, "has_bf16", lambda device: True)
    before, seen = torch.backends.cudnn.allow_tf32, []

    class Seen(torch.autograd.Function):
        @staticmethod
        def forward(context, h):
            seen.append(("forward", h.dtype, torch.backends.cudnn.allow_tf32))
            return h.clone()

        @staticmethod
        def backward(context, slope):
            seen.append(("back", slope.dtype, torch.backends.cudnn.allow_tf32))
            return slope

    entry = config.read("params.yaml", "tiny")
    model = config.model(entry, "standard")
    rng = np.random.default_rng(0)
    x = images.Images(rng.integers(0, 256, (32, 8, 8, 1), dtype=np.uint8), np.arange(32) % 10)
    for precision, dtype in (("fp32", torch.float32), ("tf32", torch.float32), ("bf16", torch.bfloat16)):
        torch.manual_seed(0)
        net = model.network.build((1, 8, 8), 10)
        net.stem.register_forward_hook(lambda stem, given, h: Seen.apply(h) if h.requires_grad else None)
        training = replace(model.training, epochs=1, ema=0.0, loss_precision=precision)
        context = Context(0, (1, 8, 8), 10, None, "cpu")
        fit(model.method, net, x, x, training, context, log=lambda *given: None)
        tf32 = precision != "fp32"
        assert seen == [("forward", dtype, tf32), ("back", dtype, tf32)]
        seen.clear()
    assert torch.backends.cudnn.allow_tf32 == before


def test_measurements_are_in_float32_and_the_process_as_before(wrn, tmp_path, monkeypatch):
    """But for the steps of two measurements' attacks; the scores that `ood` compares are in float32 too."""
    before, seen, net = torch.backends.cudnn.allow_tf32, set(), wrn.eval()
    net.head.bias.data += 1  # a different judge: torch-fidelity caches each by its weights
    rng = np.random.default_rng(0)
    x = images.Images(rng.integers(0, 256, (12, 8, 8, 1), dtype=np.uint8), np.arange(12) % 3)
    net.stem.register_forward_hook(lambda stem, given, h: seen.add(torch.backends.cudnn.allow_tf32))
    detection = ood.Ood(radii={"l2": [1.0]}, attack=ood.Descents(steps=1, restarts=1))
    pgd, autopgd = robustness.Against(eps=0.1, steps=1), AutoPGD(steps=1, restarts=1)
    using = features.network(quality.Quality(features="judge"), net, 1, tmp_path)
    scored, scores = [], ood.scores
    noted = lambda *given: scored.append(torch.backends.cudnn.allow_tf32) or scores(*given)  # noqa: E731
    monkeypatch.setattr(ood, "scores", noted)
    attacks = (
        lambda: robustness.robustness(
            net, x, robustness.Robustness(attacks={"pgd": pgd}, curve=robustness.Curve(radii=[0.1], attack=autopgd)), seed=0
        ),
        lambda: ood.ood(net, "energy", x, {"out": x}, detection, seed=0),
    )
    for measure in (
        *attacks,
        lambda: fisher.fisher(net, x, fisher.Fisher(), seed=0),
        lambda: calibration.calibration(net, x, calibration.Calibration(), seed=0),
        lambda: landscape.landscape(net, x, landscape.Landscape(points=3, images=2, radius=1.0), seed=0),
        lambda: quality.label_consistency(net, x),
        lambda: quality.confident(net, x, 6),
        lambda: using.features(x.x, "x"),
    ):
        torch.backends.cudnn.allow_tf32 = True
        try:
            measure()
            assert torch.backends.cudnn.allow_tf32
        finally:
            torch.backends.cudnn.allow_tf32 = before
        assert seen == ({False, True} if measure in attacks else {False})
        seen.clear()
    assert len(scored) > 8 and not any(scored)
