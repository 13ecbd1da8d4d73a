"""The console command on plain folders, without DVC and without tracking."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from advebm import cli, config, methods
from advebm.data import images
from advebm.methods.base import ReplayMethod
from advebm.runtime import progress
from advebm.runtime.disk import read_json

RECIPES = config.read(Path("params.yaml"), "tiny")["sampling"]
METHODS = list(RECIPES)


def advebm(*arguments):
    """Run a command in this process."""
    done = CliRunner().invoke(cli.app, list(map(str, arguments)))
    assert done.exit_code == 0, done.output + repr(done.exception)
    return done


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with the data, class Gaussians, judge and warm start of the study tiny."""
    work = tmp_path_factory.mktemp("work")
    gaussians = work / "g.safetensors"
    for arguments in (
        ("prepare", "--out", work / "data", "--quiet"),
        ("gaussians", "--data", work / "data", "--out", gaussians, "--quiet"),
        *(("train", name, "--data", work / "data", "--out", work / name, "--quiet") for name in ("judge", "warm")),
        (
            "baselines",
            "--data",
            work / "data",
            "--gaussians",
            gaussians,
            "--judge",
            work / "judge/model.safetensors",
            "--out",
            work / "baselines",
            "--quiet",
        ),
    ):
        assert "it/s" not in advebm(*arguments, "--study", "tiny").stderr
    return work


def run(work, method, command, *more, out):
    model = () if command == "train" else ("--model", work / method / "model.safetensors")
    return advebm(command, method, "--study", "tiny", *model, "--data", work / "data", "--out", work / out, *more)


@pytest.mark.parametrize("method", METHODS)
def test_the_whole_chain_of_every_method(work, method):
    gaussians = ("--gaussians", work / "g.safetensors")
    judge = ("--judge", work / "judge/model.safetensors", "--baselines", work / "baselines")
    done = run(work, method, "train", *gaussians, "--warm", work / "warm", out=method)
    assert "it/s" in done.stderr and f"train tiny/{method}" in done.stderr
    run(work, method, "sample", *gaussians, out=f"{method}/results/samples")
    run(
        work,
        method,
        "quality",
        "--samples",
        work / method / "results/samples",
        *judge,
        out=f"{method}/results/quality.json",
    )
    results = work / method / "results"
    for command in ("ood", "robustness"):
        run(work, method, command, out=f"{method}/results")
    for command in ("autoattack", "fisher"):
        run(work, method, command, out=f"{method}/results/{command}.json")
    run(work, method, "look", "--samples", results / "samples", *gaussians, *judge[:2], out=f"{method}/results")
    run(work, method, "applications", *gaussians, *judge[:2], out=f"{method}/results")
    model = ("--model", work / method / "model.safetensors")
    done = advebm("report", method, "--study", "tiny", "--results", results, *model, "--out", work / "report.json")
    assert "## Published" in done.stdout

    quality, ood, robustness = (read_json(results / f"{n}.json", n) for n in ("quality", "ood", "robustness"))
    recipes = list(RECIPES[method])
    buffer = ["replay_buffer"] if (work / method / "replay_buffer.npz").is_file() else []
    assert list(quality) == [*recipes, *buffer, "baselines"]
    assert list(quality["baselines"]) == ["gaussians", "real"]
    assert bool(buffer) == issubclass(methods.METHODS[method], ReplayMethod)
    for name, entry in (*((name, quality[name]) for name in (*recipes, *buffer)), *quality["baselines"].items()):
        assert {"fid", "fid_se", "kid", "is_mean", "precision", "recall", "label_consistency"} < set(entry)
        protocol = "jempp-buffer" if name in buffer else "atebm" if method == "at_ebm" and name in recipes else "ours"
        n = 20 if name == "real" else 40  # a class has two of the 40 validation images
        assert entry["n"] == n and entry["protocol"].startswith(f"{protocol}: {n} images")
    for entry in ood.values():
        assert (
            entry["score"] == methods.METHODS[method].detector and entry["auc_worst"] <= entry["auc"] and entry["n"] == 50
        )
        assert {"l2", "linf"} == set(entry["curves"]) and entry["score"] in entry["scores"]
        assert set(entry["scores"][entry["score"]]["attacks"]) == {"descents", "apgd", "square", "all"}
    assert set(robustness["linf"]) == {"eps", "pgd20"} and set(robustness["attacks"]) == {"pgd20", "energy20", "target20"}
    for picture in ("ood", "robustness", "calibration", "landscape", "neighbours", "interpolation", "applications"):
        assert (results / f"{picture}.png").is_file() and (results / f"{picture}.pdf").is_file()
    assert (results / "ood_fooled.png").is_file()
    for name in recipes:
        made = images.load(results / "samples" / f"{name}.npz")
        assert made.x.shape == (40, 8, 8, 1) and (made.y is None or np.bincount(made.y).tolist() == [4] * 10)
        with Image.open(results / "samples" / "pictures" / f"{name}_strip.png") as picture:
            assert picture.width > 300


def test_training_again_gives_the_same_bytes(work):
    for name in ("first", "second"):
        run(work, "robust_jem", "train", "--gaussians", work / "g.safetensors", "--seed", 5, out=name)
    files = [f.relative_to(work / "first") for f in (work / "first").rglob("*") if f.is_file()]
    assert len(files) > 5
    for file in files:
        assert (work / "first" / file).read_bytes() == (work / "second" / file).read_bytes(), file


def test_help_needs_no_torch():
    code = "import sys; import advebm.cli as c; sys.argv = ['advebm', '--help']\ntry: c.main()\nexcept SystemExit: pass\n"
    code += "print(sorted({'torch', 'mlflow', 'torchvision', 'sklearn', 'matplotlib', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip().endswith("[]"), done.stdout[-200:]
    for command in ("prepare", "gaussians", "train", "sample", "quality", "ood", "robustness", "report", "info"):
        assert command in done.stdout


def test_info_describes_the_place_and_a_model(work):
    assert "study digits" in advebm("info").stdout
    described = advebm("info", work / "judge" / "model.safetensors").stdout
    assert "network.depth" in described and "parameters" in described


def test_bars_count_what_there_is(capsys):
    for items, shown in ((range(3, 9), "9/9"), (range(0, 500, 100), "5/5"), (["a", "b"], "2/2")):
        list(progress.bar("bar")(items))
        assert shown in capsys.readouterr().err
    values = {"loss": "2"}
    for i in progress.bar("bar", values=values)(range(3)):
        values["loss"] = f"1.{i}"
    assert "3/3" in (shown := capsys.readouterr().err) and "loss 1.2]" in shown
