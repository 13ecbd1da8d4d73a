"""`advebm bench`, and the fast implementations that it times."""

import json
from pathlib import Path

import pytest
import torch

from advebm import cli, config
from advebm.bench import jobs, plain, timing
from advebm.energy import evaluated, grad, marginal
from advebm.networks import passes
from advebm.networks.passes import Passes
from advebm.networks.wrn import WideResNet
from advebm.samplers import pgd, sgld
from test_training import tiny, weights


def test_bench_runs_both_ways_and_checks_one_by_the_other(tmp_path, capsys):
    """Gradient, chains, attacks, steps, sampling and evaluation: the plain implementation gives the same results."""
    methods = ["robust_jem", "at_ebm", "glow"]
    cli.bench(out=tmp_path / "bench.json", study="tiny", method=methods, batch=4, steps=2, repeats=1, quiet=True)
    result = json.loads((tmp_path / "bench.json").read_text())
    rows = {row["name"]: row for row in result["rows"]}
    assert {f"training step of {name}" for name in methods} < rows.keys() and len(rows) == len(methods) + 9
    for name, row in rows.items():
        small_steps = name.startswith(("SGLD", "m x n", "samples"))  # error relative to small steps of float32 images
        assert row["error"] < (1e-3 if small_steps else 1e-5), name
        assert row["fast"]["memory_mb"] > 0 and row["fast"]["of_matrix_rate"] > 0, name
        assert "default" not in row and row["ratio_default"] is None, "on a CPU, plain is torch's default"
    text = capsys.readouterr().out
    assert text == (tmp_path / "bench.md").read_text() + "\n" and "| training step of robust_jem" in text


def test_operations_are_those_of_every_gradient_of_a_step():
    """A weights' gradient after G images' gradients: jem has two batches and a chain, weat an attack on a divergence."""
    entry = config.read("params.yaml", "tiny")
    standard, at, jem, weat = (timing.gflop_per_image(entry, name, Path()) for name in ("standard", "at", "jem", "weat"))
    gradient = (at - standard) / entry["models"]["at"]["attack"]["steps"]
    assert jem == pytest.approx(2 * standard + entry["models"]["jem"]["sampler"]["steps"] * gradient)
    forward = gradient / 2
    assert weat == pytest.approx(2 * standard + entry["models"]["weat"]["attack"]["steps"] * gradient + forward)


def test_checkpoints_save_memory_at_a_size_whose_gaussians_would_not_fit(tmp_path):
    given = {"study": "tiny", "method": ["at_ebm"], "what": ["step", "sample"], "batch": 2, "repeats": 1, "quiet": True}
    memory = []
    for on in ("false", "true"):
        change = [f"network.checkpoint={on}", "r1=0.0"]
        cli.bench(out=tmp_path / "b.json", size=72, change=change, **given)
        result = json.loads((tmp_path / "b.json").read_text())
        (row,) = result["rows"]  # samples start from Gaussians
        assert result["shape"] == [1, 72, 72]
        memory.append(row["fast"]["memory_mb"])
    assert memory[1] < 0.7 * memory[0]
    given |= {"method": ["robust_jem", "standard"], "what": ["step"]}
    cli.bench(out=tmp_path / "b.json", size=72, **given)
    (row,) = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert row["name"] == "training step of standard", "chains of robust_jem start from Gaussians"


def test_bench_tells_when_the_two_ways_differ(tmp_path, monkeypatch):
    monkeypatch.setitem(timing.ERROR, "fp32", 0.0)
    with pytest.raises(RuntimeError, match=r"the two implementations differ too much: one input gradient"):
        cli.bench(out=tmp_path / "b.json", study="tiny", method=["at"], what=["gradient"], batch=4, repeats=1, quiet=True)
    assert (tmp_path / "b.json").is_file()


def test_the_plain_way_is_float32_and_a_third_one_as_torch_is(tmp_path, monkeypatch, capsys):
    """As on a GPU: plain in float32, default with TF32; the package with TF32 in training, float32 for measurements."""
    monkeypatch.setattr(timing, "has_tf32", lambda device: True)
    seen = []

    def watched(way, real):
        return lambda energy, x: seen.append((way, torch.backends.cudnn.allow_tf32)) or real(energy, x)

    monkeypatch.setattr(plain, "gradient", watched("plain", plain.gradient))
    for module in (jobs, sgld):
        monkeypatch.setattr(module, "grad", watched("fast", grad))
    monkeypatch.setattr(pgd, "evaluated", watched("fast", evaluated))
    for what, fast in (("gradient", True), ("chains", True), ("step", True), ("sample", False)):
        seen.clear()
        cli.bench(out=tmp_path / "b.json", study="tiny", method=["robust_jem"], what=[what], batch=4, repeats=1, quiet=True)
        assert set(seen) == {("plain", False), ("plain", True), ("fast", fast)}
    (row,) = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert row["ratio_default"] == row["fast"]["images_per_s"] / row["default"]["images_per_s"]
    assert row["ratio_default_least"] == row["ratio_default_most"] > 0  # a single repeat
    assert f"{row['default']['images_per_s']:.4g}" in capsys.readouterr().out


def net(norm="batch"):
    torch.manual_seed(0)
    return WideResNet(depth=10, width=1, norm=norm).build((1, 8, 8), 3)


@pytest.mark.parametrize("norm", ["batch", "none", "group"])
def test_samplers_in_bfloat16_are_near_those_in_float32(monkeypatch, norm):
    monkeypatch.setattr(passes, "has_bf16", lambda device: True)
    torch.manual_seed(1)
    x = torch.rand(16, 1, 8, 8)
    own = net(norm).eval()
    with Passes().sampling(own) as full:
        exact = grad(marginal(full), x)
    with Passes("bf16").sampling(own) as low:
        assert low.features(x).dtype == low.stem(x).dtype == torch.bfloat16 and low(x).dtype == torch.float32
        rounded = grad(marginal(low), x)
    assert rounded.dtype == torch.float32 and not torch.equal(rounded, exact)
    assert (rounded - exact).norm() / exact.norm() < 0.1
    assert own.stem(x).dtype == torch.float32, "outside samplers the precision must not change"
    assert all(p.dtype == torch.float32 for p in own.parameters())


@pytest.mark.parametrize("name", ["robust_jem", "at_ebm"])
def test_bfloat16_is_left_out_where_the_machine_lacks_it(monkeypatch, name):
    exact, records = tiny(name)
    monkeypatch.setattr(passes, "has_bf16", lambda device: False)
    without, same = tiny(name, training={"precision": "bf16"})
    assert torch.equal(weights(exact), weights(without)) and records == same
    monkeypatch.setattr(passes, "has_bf16", lambda device: True)
    rounded, others = tiny(name, training={"precision": "bf16"})
    assert not torch.equal(weights(exact), weights(rounded))
    for step, record in records.items():
        assert others[step]["train/loss"] == pytest.approx(record["train/loss"], rel=0.02)
