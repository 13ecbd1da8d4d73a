"""Files that are not what they say: one line names the file and what would be right, whatever command reads it."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file

from advebm import cli, networks
from advebm.networks.flow import Glow
from advebm.networks.wrn import WideResNet
from advebm.reports.results import measured
from advebm.runtime import outbox, tracking
from advebm.runtime.tensors import write
from test_bad_input import error_of, params_file

DATA, MODEL, GAUSSIANS = "--data {t}/data", "--model {t}/judge/model.safetensors", "--gaussians {t}/g.safetensors"
JUDGE = "--judge {t}/judge/model.safetensors"
COMMANDS = {
    "gaussians": f"gaussians {DATA} --out {{t}}/o/g",
    "train": f"train jempp {DATA} {GAUSSIANS} --out {{t}}/o",
    "at_ebm": f"train at_ebm {DATA} {GAUSSIANS} --out {{t}}/o",
    "jeat": f"train jeat {DATA} {GAUSSIANS} --warm {{t}}/judge --out {{t}}/o",
    "sample": f"sample robust_jem {MODEL} {DATA} {GAUSSIANS} --out {{t}}/o",
    "sample at_ebm": f"sample at_ebm {MODEL} {DATA} {GAUSSIANS} --out {{t}}/o",
    "baselines": f"baselines {DATA} {GAUSSIANS} {JUDGE} --out {{t}}/o",
    "steps": f"steps robust_jem {MODEL} {DATA} {GAUSSIANS} {JUDGE} --images 20 --lengths 1,2 --out {{t}}/o",
    "quality": f"quality at {MODEL} {DATA} {JUDGE} --samples {{t}} --baselines {{t}} --out {{t}}/o/q.json",
    "neighbours": f"neighbours at {MODEL} {DATA} {JUDGE} --samples {{t}} --out {{t}}/o",
    "report": f"report at {MODEL} --results {{t}} --out {{t}}/o/r.json",
    "info": "info {t}/judge/model.safetensors",
    **{
        name: f"{name} standard {MODEL} {DATA} --out {{t}}/o/{name}.json"
        for name in ("robustness", "ood", "fisher", "landscape", "calibration", "autoattack")
    },
    "interpolation": f"interpolation robust_jem {MODEL} {DATA} {GAUSSIANS} --out {{t}}/o",
}
GENERATING = ("train", "sample", "baselines", "interpolation", "steps")


def net(shape=(1, 8, 8), outputs=10, spec=None):
    return lambda file: networks.save(file, (spec or WideResNet(depth=10, width=1)).build(shape, outputs), method="at")


def tensors(**changed):
    return lambda file: write(file, load_file(file) | {k: make(load_file(file)[k]) for k, make in changed.items()}, {})


def arrays(**changed):
    """An .npz with the arrays that these functions make of the file's."""

    def make(file):
        old = dict(np.load(file))
        np.savez(file, **{key: change(old) for key, change in changed.items() if change})

    return make


def about(**changed):
    """A JSON file as an earlier version wrote it, without a checksum, with other values."""

    def make(file):
        content = json.loads(file.read_text()) | changed
        del content["checksum"]
        file.write_text(json.dumps(content))

    return make


def text(content):
    return lambda file: file.write_text(content)


def cut(file):
    file.write_bytes(file.read_bytes()[:-100])


PAGE, X = text("<!DOCTYPE html><title>404</title>\n"), lambda old: old["x"]
SMALL = arrays(x=lambda old: np.zeros((60, 4, 4), np.uint8), y=lambda old: np.arange(60) % 10)

# what the file really is, the file, what makes it, the commands that read it, the message
FILES = [
    ("Gaussians of fewer classes", "g.safetensors", tensors(mean=lambda m: m[:5].clone(), factor=lambda f: f[:5].clone()),
        GENERATING, "has 5 classes of images [1, 8, 8], not 10 of [1, 8, 8]; it belongs to another study"),
    ("Gaussians of colour images", "g.safetensors", tensors(
        mean=lambda m: torch.zeros(10, 192), factor=lambda f: torch.zeros(10, 192, 192),
        shape=lambda s: torch.tensor([3, 8, 8]),
    ), GENERATING, "has 10 classes of images [3, 8, 8], not 10 of [1, 8, 8]; it belongs to another study"),
    ("Gaussians whose parts do not fit", "g.safetensors", tensors(mean=lambda m: m[0].clone()),
        GENERATING, "is not a readable file of class Gaussians"),
    ("Gaussians that are not finite", "g.safetensors", tensors(mean=lambda m: m * float("nan")),
        GENERATING, "not all numbers are finite float32); run `advebm gaussians` again"),
    ("a model", "g.safetensors", net(), GENERATING, "is not a readable file of class Gaussians"),
    ("a model of 5 classes", "judge/model.safetensors", net(outputs=5),
        ("sample", "robustness", "ood", "fisher", "landscape", "calibration", "autoattack", "interpolation"),
        "has 5 outputs for 10 classes; it belongs to another study"),
    ("a model of colour images", "judge/model.safetensors", net((3, 8, 8)), ("baselines", "ood"),
        "is for images [3, 8, 8], not [1, 8, 8]; it belongs to another study"),
    ("a judge of 100 classes", "judge/model.safetensors", net(outputs=100), ("baselines",),
        "has 100 outputs for 10 classes; it is not the study's judge"),
    ("a model without classes as the judge", "judge/model.safetensors", net(outputs=1), ("baselines", "steps"),
        "has 1 outputs for 10 classes; it is not the study's judge"),
    ("a flow as the judge", "judge/model.safetensors", net(spec=Glow(kind="glow", levels=2, blocks=1, hidden=4), outputs=1),
        ("baselines",), "is a flow, not a judge; `advebm train judge` makes one"),
    ("tensors of another program", "judge/model.safetensors", lambda file: save_file(load_file(file), file),
        ("sample", "baselines", "jeat", "info"), "is not a readable advebm model"),
    ("images without classes", "data/train.npz", arrays(x=X), ("gaussians", "train", "neighbours"),
        "has no classes, but the study has classes 0 to 9; run `advebm prepare` again"),
    ("images of more classes", "data/train.npz", arrays(x=X, y=lambda old: np.arange(len(old["x"])) % 20),
        ("gaussians", "train"), "has an image of class 19, but the study has classes 0 to 9"),
    ("samples of more classes", "targeted.npz", arrays(x=X, y=lambda old: np.full(len(old["x"]), 77)), ("neighbours",),
        "has an image of class 77, but the study has classes 0 to 9; make it again"),
    ("smaller images", "data/train.npz", SMALL, ("gaussians", "train", "neighbours"), "holds images [1, 4, 4], not"),
    ("smaller images", "data/test.npz", SMALL, ("baselines", "robustness", "ood", "fisher", "landscape", "calibration"),
        "holds images [1, 4, 4], not [1, 8, 8]; it belongs to another study"),
    ("smaller images", "data/out/uniform.npz", SMALL, ("ood",), "holds images [1, 4, 4], not [1, 8, 8]"),
    ("smaller images", "data/outliers.npz", SMALL, ("at_ebm",), "holds images [1, 4, 4], not [1, 8, 8]"),
    ("smaller images", "targeted.npz", SMALL, ("neighbours",), "holds images [1, 4, 4], not [1, 8, 8]"),
    ("no shape", "data/about.json", about(shape=None), ("gaussians", "train", "sample", "ood", "steps"), "shape is wrong"),
    ("a shape of two numbers", "data/about.json", about(shape=[8, 8]), ("train",),
        "shape is wrong; run `advebm prepare` again"),
    ("classes in words", "data/about.json", about(classes="ten"), ("train", "baselines", "ood"), "classes is wrong"),
    ("numbers of other sets", "data/about.json", about(images={"out/x": 3}), ("ood", "steps"), "images is wrong"),
    ("a list", "data/about.json", text("[1]"), ("train", "ood", "gaussians"), "is damaged (not an object)"),
    ("another number", "robustness.json", lambda file: file.write_text(file.read_text().replace("0.", "1.", 1)),
        ("report",), "was altered, its checksum is another; run `advebm robustness` again"),
    ("inverted images", "targeted.npz", arrays(x=lambda old: 255 - old["x"], y=lambda old: old["y"],
        sha256=lambda old: old["sha256"]), ("neighbours",), "its images were altered, their sha256 is another"),
    ("null", "robustness.json", text("null"), ("report",), "is damaged (not an object); run `advebm robustness` again"),
    ("no accuracy", "robustness.json", about(clean="high"), ("report",), "clean is missing or wrong"),
    ("an interval without ends", "robustness.json", about(clean_ci=[]), ("report",), "clean_ci is missing or wrong"),
]  # fmt: skip
CASES = [(what, file, make, command, said) for what, file, make, commands, said in FILES for command in commands]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """The data, class Gaussians, judge, and samples and robustness of tiny."""
    tree = tmp_path_factory.mktemp("tree")
    for line in (
        "prepare --out {t}/data",
        "gaussians --data {t}/data --out {t}/g.safetensors",
        "train judge --data {t}/data --out {t}/judge",
        f"sample at {MODEL} {DATA} {GAUSSIANS} --out {{t}}",
        f"robustness at {MODEL} {DATA} --out {{t}}",
    ):
        sys.argv = ["advebm", *line.format(t=tree).split(), "--study", "tiny", "--quiet"]
        cli.main()
    return tree


@pytest.fixture
def t(tree, tmp_path):
    return shutil.copytree(tree, tmp_path / "t")


@pytest.mark.parametrize(("what", "file", "make", "command", "said"), CASES, ids=[f"{c[1]}: {c[0]}: {c[3]}" for c in CASES])
def test_a_file_that_is_not_what_it_says(t, monkeypatch, capsys, what, file, make, command, said):
    make(t / file)
    line = COMMANDS[command] + {"info": "", "report": " --study tiny"}.get(command, " --study tiny -q")
    shown = error_of(line, monkeypatch, capsys, t=t)
    assert f"{t / file}: " in shown and said in shown


WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"


@pytest.mark.parametrize(
    "make",
    [
        PAGE,
        text(""),
        lambda file: (torch.save({"fc.weight": torch.ones(9)}, file), cut(file)),
        lambda file: torch.save({"conv1.weight": torch.ones(9)}, file),
        lambda file: torch.save({"fc.weight": torch.ones(1000, 2048), "conv1.weight": torch.ones(9)}, file),
        lambda file: torch.save([1, 2], file),
        lambda file: file.mkdir(),
    ],
    ids=["a web page", "empty", "cut", "of another network", "of another network with fc", "a list", "a folder"],
)
def test_weights_that_are_not_of_inception(t, tmp_path, monkeypatch, capsys, make):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(t / "hub"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    (t / "root").mkdir()
    make(t / "root" / WEIGHTS)
    more = params_file(tmp_path, {"quality.features": "inception"})
    shown = error_of(COMMANDS["baselines"] + f" -q --root {{t}}/root{more}", monkeypatch, capsys, t=t)
    assert f"{t}/root/{WEIGHTS}: does not hold the weights of torch-fidelity's Inception" in shown
    assert "see data/README.md" in shown


def test_inception_that_cannot_be_downloaded(t, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(t / "hub"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    more = params_file(tmp_path, {"quality.features": "inception"})
    line = COMMANDS["baselines"].format(t=t) + f" -q --root {t}{more}"
    monkeypatch.setattr(sys, "argv", ["advebm", *line.split()])
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    *_, told = capsys.readouterr().err.splitlines()
    assert told.startswith("advebm: Inception's weights are missing, and cannot be downloaded (")


@pytest.mark.parametrize("content", ["{}", "[]", "null", '{"recoveries": [1]}', '{"recoveries": [{}]}', "\x00", "<html>"])
def test_recoveries_that_are_not(tmp_path, content):
    (tmp_path / "recoveries.json").write_text(content)
    with pytest.raises(ValueError, match=r"recoveries.json: .*run `advebm train` again"):
        measured(Path("nowhere"), tmp_path, partial=True)


@pytest.mark.parametrize("norm", [None, [], "x", 7])
def test_a_result_of_autoattack_that_is_not(tmp_path, norm):
    (tmp_path / "autoattack.json").write_text(json.dumps({"n": 2, "linf": norm}))
    with pytest.raises(ValueError, match=r"autoattack.json: .* is missing or wrong.*; run `advebm autoattack` again"):
        measured(tmp_path, partial=True)


@pytest.mark.parametrize("make", [PAGE, lambda file: file.mkdir()], ids=["a web page", "a folder"])
def test_a_tracking_database_that_is_not(tmp_path, monkeypatch, capsys, make):
    """Training succeeds and says what waits; what reads the database names it."""
    make(tmp_path / "mlflow.db")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    with tracking.run("train", "tiny", "at", params={}):
        pass
    assert capsys.readouterr().err.startswith(f"advebm: MLflow: {tmp_path}/mlflow.db: ")
    monkeypatch.setattr(sys, "argv", ["advebm", "summary", "--study", "tiny"])
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    waits, told = capsys.readouterr().err.splitlines()
    assert "`advebm sync` sends them" in waits
    assert told.startswith(f"advebm: MLflow cannot be read: {tmp_path}/mlflow.db: ")
    assert told.endswith("if it is damaged, move it away")


def test_a_tracking_database_that_is_locked(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr(tracking, "PATIENCE", 0.1)
    with FileLock(tmp_path / "mlflow.lock"):
        shown = error_of("summary --study tiny", monkeypatch, capsys, code=1)
    assert shown.startswith(f"advebm: MLflow cannot be read: {tmp_path}/mlflow.db: ") and "if it is locked, wait" in shown


def test_records_for_mlflow_that_are_not(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    (folder := tmp_path / "state/outbox/1-2").mkdir(parents=True)
    (folder / "events.jsonl").write_text("<html>\n")
    assert outbox.waiting("tiny") == [] and not (folder / "events.jsonl").exists()
    told = capsys.readouterr().err
    (aside,) = tmp_path.glob("state/damaged/1-2-*")
    assert told.startswith(f"advebm: {folder}: its records for MLflow are damaged (") and told.endswith(
        f"moved to {aside}\n"
    )
