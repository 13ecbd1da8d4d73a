"""docs/compare.md: trained models with other libraries, and as programs that run without advebm."""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

import advebm
from advebm import cli, networks, vision  # noqa: F401  # vision lets the libraries import torchvision
from advebm.commands.gaussians import gaussians
from advebm.commands.prepare import prepare
from advebm.commands.train import train
from advebm.data import images
from advebm.evaluation import features
from advebm.evaluation.ood import auc
from advebm.evaluation.statistics import Statistics, between
from advebm.networks.flow import Glow
from advebm.networks.wrn import WideResNet
from test_bad_input import error_of

PAGE = Path("docs/compare.md").read_text()
EXAMPLES = {part.partition("\n")[0]: re.findall(r"```python\n(.*?)```", part, re.S) for part in PAGE.split("\n## ")}
SHARED, ATTACKS, ROBUSTBENCH, PYTORCH_OOD, OPENOOD, FID, PROGRAMS = EXAMPLES.values()
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


def model(tree, method):
    return advebm.load(tree / "models/digits" / method)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Data and a model of tiny in the places of digits, and two untrained models that have one output."""
    tree = tmp_path_factory.mktemp("tree")
    data, models, params = tree / "data/digits", tree / "models/digits", Path("params.yaml")
    prepare(data, study="tiny", params=params)
    gaussians(data, models / "gaussians.safetensors", study="tiny", params=params)
    given = {"gaussians": models / "gaussians.safetensors", "study": "tiny", "params": params}
    train("robust_jem", data, models / "robust_jem", **given)
    (models / "judge").symlink_to("robust_jem")
    kept = {"network", "shape", "outputs", "method"}
    about = {key: value for key, value in model(tree, "robust_jem").about.items() if key not in kept}
    for method, spec in {"at_ebm": WideResNet(depth=10, width=1), "glow": Glow(kind="glow", levels=1, blocks=1)}.items():
        torch.manual_seed(0)
        (models / method).mkdir()
        networks.save(models / method / "model.safetensors", spec.build((1, 8, 8), 1), method=method, **about)
    return tree


@pytest.fixture
def run(tree, monkeypatch):
    """Runs examples after the lines they share, in a folder with the models and data of digits; returns their names."""
    monkeypatch.chdir(tree)

    def run(examples):
        names = {}
        for example in (*SHARED, *examples):
            exec(example, names)
        return names

    return run


def test_attacks_of_other_libraries(run):
    found = run(ATTACKS)
    own, x, y = found["model"], found["inside"], found["y"]
    right = own.classify(x).y == y
    assert right[:20].any()
    for x_adv, eps in ((found["x_pgd"], 0.1), (found["x_adv"], 0.3)):
        n = len(x_adv)
        assert (x_adv - x[:n]).abs().max() <= eps + 1e-6
        left = own.classify(x_adv).y == y[:n]
        assert left.sum() < right[:n].sum()
    assert torch.equal(found["fooled"][0], own.classify(found["x_pgd"]).y != y)


@pytest.mark.parametrize("method", ["robust_jem", "at_ebm", "glow", "ratio"])
def test_the_detector_of_pytorch_ood_has_our_auc(tree, run, method):
    """Of the detector by the largest probability (ratio), the network is robust_jem's."""
    from advebm.adapters.pytorch_ood import Detector

    names = run(PYTORCH_OOD)
    own = model(tree, method if method != "ratio" else "robust_jem")
    if method == "ratio":
        own.about = own.about | {"detector": "max_softmax"}
    inside, outside = names["inside"], names["outside"]
    detector = Detector(own).fit(None).to("cpu")
    metrics = names["OODMetrics"]()
    metrics.update(detector(inside), torch.zeros(len(inside)))
    metrics.update(detector(outside), -torch.ones(len(outside)))
    ours = auc(own.score(inside).numpy(), own.score(outside).numpy())
    assert metrics.compute()["AUROC"] == pytest.approx(ours, abs=1e-6) and abs(ours - 0.5) > 0.01
    if method == "robust_jem":
        assert names["metrics"].compute()["AUROC"] == pytest.approx(ours, abs=1e-6)
        assert torch.allclose(names["EnergyBased"](own.net).predict(inside), detector(inside), **TOLERANCE)
        with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
            detector(2 * inside - 1)


def test_torchmetrics_fid_of_samples_is_ours(run):
    found = run(FID)
    judge = found["judge"]
    using = features.network(features.Features(features="judge"), judge.net, 1, Path("none"), bar=lambda name: iter)
    samples, real = found["model"].sample(100), found["inside"]
    pair = [images.Images(images.to_bytes(x)) for x in (samples, real)]
    theirs = found["FrechetInceptionDistance"](found["features"], input_img_size=judge.shape)
    theirs.update(samples.mul(255).round() / 255, real=False)
    theirs.update(real, real=True)
    ours = between(*(Statistics.of(x, using, "x") for x in pair), using).fid
    assert theirs.compute().item() == pytest.approx(ours, rel=0.01)
    assert found["fid"].compute().item() == pytest.approx(ours, rel=0.05)


def exported(tree, method, out, capsys):
    sys.argv = ["advebm", "export", f"{tree}/models/digits/{method}", "--out", str(out)]
    cli.main()
    assert re.fullmatch(
        rf"wrote {out}; its outputs for random images are the model's within \S+\n", capsys.readouterr().out
    )


@pytest.mark.parametrize("method", ["robust_jem", "at_ebm"])
def test_exported_programs_give_what_the_model_gives(tree, run, capsys, method):
    """On real and on random images, one or many; with all that a user must know."""
    own = model(tree, method)
    for suffix in ("onnx", "pt2"):
        exported(tree, method, tree / f"model.{suffix}", capsys)
    names = run(PROGRAMS)
    session, program, about = names["session"], names["program"], names["about"]["advebm.json"]
    for x in (names["inside"], names["inside"][:1], torch.rand(7, 1, 8, 8), torch.zeros(2, 1, 8, 8)):
        expected = (own.net(x), own.energy(x), own.score(x))
        of_onnx = [torch.from_numpy(found) for found in session.run(None, {"images": x.numpy()})]
        for ours, theirs, other in zip(expected, program(x), of_onnx, strict=True):
            assert torch.allclose(ours, theirs, **TOLERANCE) and torch.allclose(ours, other, **TOLERANCE)
    described = names["json"].loads(about)
    metadata = session.get_modelmeta().custom_metadata_map
    assert described == {key: names["json"].loads(metadata[key]) for key in described}
    assert described["shape"] == [1, 8, 8] and described["range"] == [0, 1] and described["threshold"] == own.threshold
    assert described["classes"] == (10 if method == "robust_jem" else None) and described["method"] == method


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "export {t}/models/digits/glow --out {out}/m.onnx",
            "glow/model.safetensors: is a flow, whose code cannot be exported;",
        ),
        ("export {t}/models/digits/at_ebm --out {out}/m.pth", "m.pth: must end with .onnx or .pt2"),
        ("export {t}/nothing --out {out}/m.pt2", "nothing: no such model file"),
    ],
)
def test_what_cannot_be_exported_is_told_in_a_line(tree, monkeypatch, capsys, tmp_path, line, message):
    assert message in error_of(line.replace("{t}", str(tree)), monkeypatch, capsys, out=tmp_path)
    assert not [*tmp_path.iterdir()]


def test_a_missing_onnx_is_named_with_its_extra(tree, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    shown = error_of(f"export {tree}/models/digits/at_ebm --out {{out}}/m.onnx", monkeypatch, capsys, out=tmp_path)
    assert "this needs onnxscript, which is not installed: pip install 'advebm[export]'" in shown


REQUIREMENTS = {  # to be installed over this environment's packages, one after another
    "robustbench": ["robustbench==1.1.1 setuptools<81"],
    "openood": [
        "numpy<2 pandas<3 opencv-python<4.12 opencv-python-headless<4.12 imgaug faiss-cpu statsmodels timm",
        "numpy<2 json5 gdown diffdist setuptools wheel cython<3",
        "--no-build-isolation libmr",
    ],
}


@pytest.mark.soak
@pytest.mark.parametrize("library", REQUIREMENTS)
def test_libraries_of_other_versions(tmp_path, library):
    """In an environment of their own, over the packages of this one; tests/outside.py is what runs there. OUTSIDE names the
    folder with clones of github.com/fra31/auto-attack and github.com/Jingkang50/OpenOOD, which are not on PyPI."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python, version = tmp_path / "venv/bin/python", f"python{sys.version_info.major}.{sys.version_info.minor}"
    (tmp_path / f"venv/lib/{version}/site-packages/over.pth").write_text(sysconfig.get_path("purelib"))
    for packages in REQUIREMENTS[library]:
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages.split()], check=True)
    places = (Path("pkg"), *(Path(os.environ["OUTSIDE"], name) for name in ("auto-attack", "OpenOOD")))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(str(place.absolute()) for place in places)}
    subprocess.run([python, "tests/outside.py", library, tmp_path], check=True, env=environment)
