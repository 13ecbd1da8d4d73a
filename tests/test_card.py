"""A model as a folder to share: `advebm card`, and `advebm.load` from the Hugging Face Hub."""

import http.server
import json
import os
import re
import subprocess
import sys
import threading
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

import advebm
from advebm import cli, config, networks
from advebm.data.gaussians import Gaussians
from advebm.data.sources import LABELLED
from advebm.reports.card import SOURCES
from test_bad_input import error_of
from test_tables import study  # noqa: F401  a fixture

ENTRY = config.read(Path("params.yaml"), "tiny")
COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture
def tree(study):  # noqa: F811
    """Invented results, and models that fit them, untrained."""
    for method in ("robust_jem", "at_ebm"):
        spec = config.model(ENTRY, method)
        torch.manual_seed(0)
        net = spec.network.build((1, 8, 8), spec.method.outputs(10))
        about = {"classes": 10, "detector": "energy", "threshold": 0.0, "precision": "fp32", "seed": 0}
        recipes = [[name, recipe] for name, recipe in ENTRY["sampling"][method].items()]
        path = study / "models" / method / "model.safetensors"
        networks.save(path, net, **about, study="tiny", method=method, recipes=recipes)
    starts = Gaussians(torch.rand(10, 64), 0.1 * torch.eye(64).repeat(10, 1, 1), (1, 8, 8))
    starts.save(study / "models/gaussians.safetensors")
    return study


def card(tree, method, more=""):
    places = f"--model {tree}/models/{method}/model.safetensors --results {tree}/results/{method}"
    return f"card {method} --study tiny {places} --out {tree}/{method}-card {more}"


def written(tree, method, monkeypatch, more=""):
    monkeypatch.setattr(sys, "argv", ["advebm", *card(tree, method, more).split()])
    cli.main()
    return tree / f"{method}-card"


@pytest.mark.parametrize("method", ["robust_jem", "at_ebm"])
def test_a_card_is_what_the_hub_reads(tree, monkeypatch, method):
    folder = written(tree, method, monkeypatch, "--repo me/mine --licence apache-2.0")
    sums = dict(reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text().splitlines())
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    assert sums == {name: sha256(file.read_bytes()).hexdigest() for name, file in files.items() if name != "SHA256SUMS"}

    read, text = ModelCard.load(folder / "README.md"), (folder / "README.md").read_text()
    assert (read.data.license, read.data.library_name, read.data.model_name) == ("apache-2.0", "advebm", "me/mine")
    values = [(result.task_type, result.metric_type, result.metric_value) for result in read.data.eval_results]
    detects = [("out-of-distribution-detection", "roc_auc", value) for value in (0.9, 0.3)]
    right, classes = [("unconditional-image-generation", "accuracy", 0.98)], ("image-classification", "accuracy")
    fid = [("unconditional-image-generation", "fid", 2.5)]
    classified = [(*classes, 0.99), (*classes, 0.86)] if method == "robust_jem" else []
    assert values == [*classified, *fid, *right, *detects]
    shown = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert set(shown) == {name for name in files if name.endswith(".png")} and "/samples_" in shown[0] and len(shown) > 8
    assert sums["model.safetensors"] in text and "CC BY 4.0" in text and 'load("hf://me/mine")' in text
    assert ("It has no classes" in text) == ("classify" not in text) == (method == "at_ebm")
    assert "Warnings" in text and ("only 3 of 500 images are distinct" in text) == (method == "robust_jem")

    own, source = advebm.load(folder), advebm.load(tree / "models" / method)
    assert json.loads((folder / "config.json").read_text()) == source.about
    if method == "robust_jem":
        assert torch.equal(own.sample(4), source.sample(4))
    assert (folder / "gaussians.safetensors").exists() == any(r.start == "gaussians" for r in own.recipes.values())


def test_the_sources_are_those_of_the_readers_and_of_the_documents():
    assert set(SOURCES) == {*LABELLED, "photographs", "uniform", "inverted"}
    rows = Path("data/README.md").read_text()
    for kind in ("digits", "mnist", "cifar10", "svhn", "photographs"):
        row = re.search(rf"^\| `{kind}.*$", rows, re.M)[0]
        assert SOURCES[kind].licence.partition(",")[0] in row, kind


def test_mistakes(tree, monkeypatch, capsys):
    def shown(method, more):
        return error_of(card(tree, method, more), monkeypatch, capsys, tree=tree)

    assert "--repo mine: must be OWNER/NAME" in shown("robust_jem", "--repo mine")
    assert "model.safetensors: is robust_jem of study tiny, not at_ebm of tiny" in shown(
        "at_ebm", f"--model {tree}/models/robust_jem/model.safetensors"
    )
    assert "robustness.json: not there" in shown("robust_jem", f"--results {tree}/none")
    (tree / "models/gaussians.safetensors").unlink()
    assert "gaussians.safetensors: no such file of class Gaussians" in shown("robust_jem", "")
    with pytest.raises(ValueError, match="hf://mine: is no model on the Hub; write hf://OWNER/NAME or"):
        advebm.load("hf://mine")


class Hub(http.server.BaseHTTPRequestHandler):
    """The part of the Hub's interface that a download needs, for the repository me/mine, which has a folder's files."""

    folder: Path

    def do_GET(self):
        repo, _, rest = self.path.removeprefix("/api/models/").removeprefix("/").partition("?")[0].partition("mine")
        if repo != "me/":
            self.answer(404, b"{}", "RepoNotFound")
        elif rest.startswith("/resolve/"):
            self.answer(200, (self.folder / rest.split("/", 3)[3]).read_bytes())
        elif rest.startswith("/tree/"):
            files = [file for file in self.folder.iterdir() if file.is_file()]
            listed = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": digest(f)} for f in files]
            self.answer(200, json.dumps(listed).encode())
        elif rest in ("", "/revision/main", "/revision/v1"):
            self.answer(200, json.dumps({"id": "me/mine", "sha": COMMIT, "siblings": []}).encode())
        else:
            self.answer(404, b"{}", "RevisionNotFound")

    do_HEAD = do_GET

    def answer(self, code, content, error=None):
        self.send_response(code)
        named = {"X-Repo-Commit": COMMIT, "ETag": f'"{sha256(content).hexdigest()}"', "Content-Length": str(len(content))}
        for name, value in (named | ({"X-Error-Code": error} if error else {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *words):
        pass


def digest(file):
    return sha256(file.read_bytes()).hexdigest()


def test_a_model_is_loaded_from_the_hub_by_its_name(tree, monkeypatch, tmp_path):
    folder = written(tree, "robust_jem", monkeypatch)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Hub,), {"folder": folder}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    script = """
import sys
import advebm
for name in sys.argv[1:]:
    try:
        print(advebm.load(name).sample(2).sum().item())
    except OSError as error:
        print(type(error).__name__, error)
"""
    names = ["hf://me/mine", "hf:/me/mine@v1", "hf://me/mine@v2", "hf://me/other"]
    served = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "no_proxy": "*"}
    environment = {**os.environ, **served, "HF_HOME": str(tmp_path / "hub")}

    def loaded():
        run = [sys.executable, "-c", script, *names]
        done = subprocess.run(run, capture_output=True, text=True, env=environment, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    expected = str(advebm.load(folder).sample(2).sum().item())
    found = loaded()
    assert found[:2] == [expected] * 2
    assert found[2].startswith("FileNotFoundError hf://me/mine@v2: the Hub has no revision v2 of me/mine")
    assert found[3].startswith("FileNotFoundError hf://me/other: the Hub has no model me/other")
    assert not list((tmp_path / "hub").rglob("*.png"))
    server.shutdown()
    server.server_close()
    found = loaded()  # from the cache
    assert found[:2] == [expected] * 2 and found[3].startswith("OSError hf://me/other: could not be downloaded")
