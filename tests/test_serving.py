"""Models in MLflow: how they are stored and registered, what they answer, and which becomes the champion."""

import base64
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
import urllib.request
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from urllib.error import HTTPError, URLError

import mlflow
import numpy as np
import pytest
import torch
import uvicorn
from mlflow.pyfunc.scoring_server import init
from PIL import Image

import advebm
from advebm import cli, config, networks
from advebm.data.images import digest
from advebm.networks.wrn import WideResNet
from advebm.runtime import outbox, project, registry, tracking
from test_bad_input import error_of

LOCK = """
stages:
  prepare:
    deps: [{path: data/tiny.sources.json, hash: md5, md5: 11}]
    outs: [{path: data/tiny, hash: md5, md5: 0123456789abcdef0123456789abcdef.dir}]
  warm:
    outs: [{path: models/tiny/warm, hash: md5, md5: 33}, {path: models/tiny/at, hash: md5, md5: 44}]
"""
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), dtype=np.uint8)


def model(folder, method, seed=0, *, outputs=10):
    """The file of a model that was never trained, with all that `train` writes into one."""
    torch.manual_seed(seed)
    net = WideResNet(depth=10, width=1).build((1, 8, 8), outputs)
    use = {"classes": 10, "detector": "energy", "threshold": -2.0, "recipes": [], "precision": "fp32"}
    networks.save(
        file := folder / method / str(seed) / "model.safetensors", net, study="tiny", method=method, seed=seed, **use
    )
    return file


def train(file, method, seed=0):
    """Log the file as training does; returns its sha256."""
    with tracking.run("train", "tiny", method, params={"seed": seed}) as run:
        run.tags(checkpoint__sha256=digest(file))
        run.artifact(file)
    return digest(file)


def measure(checkpoint, method, **fids):
    spec = config.stage_specs(config.read(Path("params.yaml"), "tiny"), method)["quality"]
    with tracking.run("quality", "tiny", method, params={}, checkpoint=checkpoint, spec=spec) as run:
        run.metrics({f"quality/{name}/fid": value for name, value in fids.items()})


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store to which a judge and two models were sent, by a stage of DVC."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(folder))
        patch.setenv("ADVEBM_TRACKING", "outbox")
        (folder / "dvc.lock").write_text(LOCK)
        words = "run.py at --data data/tiny --warm models/tiny/warm/model.safetensors --out models/tiny/at"
        patch.setattr(sys, "argv", words.split())
        with patch.context() as inside:
            inside.chdir(folder)
            for method, outputs in {"judge": 10, "at_ebm": 1, "at": 10}.items():
                train(model(folder, method, outputs=outputs), method)
        tracking.sync()
        yield folder


@pytest.fixture
def client(store):
    return tracking.client()


def loaded(client, alias="challenger"):
    return mlflow.pyfunc.load_model(client.get_model_version_by_alias("tiny", alias).source)


def test_a_model_is_stored_once_and_registered(store, client, capfd):
    (version, *others) = client.search_model_versions("name = 'tiny'")
    assert len(others) == 1 and client.get_registered_model("tiny").aliases == {"challenger": 2}, "no judge is registered"
    run = client.get_run(version.run_id)
    assert version.tags == {"method": "at", "seed": "0", "checkpoint.sha256": run.data.tags["checkpoint.sha256"]}
    weights = [file for file in (store / "mlartifacts").rglob("*") if file.suffix == ".safetensors"]
    assert len(weights) == 3 and not client.list_artifacts(run.info.run_id)
    (output,) = run.outputs.model_outputs
    stored = client.get_logged_model(output.model_id)
    assert stored.status == "READY" and stored.artifact_location == version.source and stored.params == {"seed": "0"}
    folder = Path(version.source.removeprefix("file://"))
    stored = mlflow.models.Model.load(str(folder))
    assert stored.signature.inputs.input_names() == ["image"] and stored.load_input_example(str(folder)) is not None
    assert stored.signature.outputs.input_names() == ["class", "probabilities", "energy", "score", "distribution"]
    assert (folder / "serving.py").exists() and not list(folder.rglob("*.pkl"))
    assert (folder / "requirements.txt").read_text().split() == registry.requirements("wrn")
    assert capfd.readouterr().err == ""


def test_the_requirements_are_the_base_installation_pinned():
    base = tomllib.loads(Path("pyproject.toml").read_text())["project"]["dependencies"]
    assert set(registry.NEEDED) == {name.split(">=")[0] for name in base} | {"mlflow"}
    assert f"mlflow=={metadata.version('mlflow')}" in registry.requirements("wrn")
    assert registry.requirements("glow")[-1].startswith("normflows==") and "+" not in "".join(registry.requirements("wrn"))


def test_a_run_has_its_data_and_the_hashes_of_dvc(client):
    run = client.get_run(client.get_model_version_by_alias("tiny", "challenger").run_id)
    tags = {name: value for name, value in run.data.tags.items() if name.startswith("dvc.") and "/" in name}
    assert tags == {"dvc.data/tiny": "0123456789abcdef0123456789abcdef.dir", "dvc.models/tiny/warm": "33"}
    (given,) = run.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("tiny", tags["dvc.data/tiny"])
    assert [(tag.key, tag.value) for tag in given.tags] == [("mlflow.data.context", "training")]
    assert mlflow.data.get_source(given.dataset).uri == "data/tiny"


def test_an_interrupted_sending_is_completed(client, monkeypatch):
    run_id = client.get_model_version_by_alias("tiny", "challenger").run_id
    before = client.get_run(run_id).outputs.model_outputs
    file = next((project.root() / "at").rglob("model.safetensors"))
    registry.log(client, run_id, file, registry.about(file))  # all was done
    assert client.get_run(run_id).outputs.model_outputs == before
    other = client.create_run(client.get_run(run_id).info.experiment_id, tags={"checkpoint.sha256": "x"})
    monkeypatch.setattr(mlflow.MlflowClient, "log_model_artifacts", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        registry.log(client, other.info.run_id, file, registry.about(file))
    monkeypatch.undo()
    registry.log(client, other.info.run_id, file, registry.about(file))
    found = client.search_logged_models([other.info.experiment_id], f"source_run_id = '{other.info.run_id}'")
    assert [one.status for one in found] == ["READY"]
    assert client.get_registered_model("tiny").aliases == {"challenger": 3}
    client.delete_model_version("tiny", "3")
    client.set_registered_model_alias("tiny", "challenger", "2")


def test_a_file_that_is_no_model_of_this_version_is_sent_as_it_is(tmp_path, client):
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert registry.about(tmp_path / "model.safetensors") is None
    networks.save(file := tmp_path / "old.safetensors", WideResNet(depth=10, width=1).build((1, 8, 8), 2), method="at")
    assert registry.about(file) is None
    train(file, "at")
    tracking.sync()
    runs = client.search_runs(["1"], f"tags.`checkpoint.sha256` = '{digest(file)}'")
    assert [one.path for one in client.list_artifacts(runs[0].info.run_id)] == ["old.safetensors"]


def png(pixels):
    Image.fromarray(pixels[..., 0]).save(file := io.BytesIO(), "PNG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture(scope="module")
def server(store):
    """MLflow's scoring server of the challenger, on this machine."""
    served = uvicorn.Server(uvicorn.Config(init(loaded(tracking.client())), port=0, log_level="error"))
    thread = threading.Thread(target=served.run)
    thread.start()
    while not served.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{served.servers[0].sockets[0].getsockname()[1]}"
    served.should_exit = True
    thread.join()


def ask(server, body):
    """The status and the answer."""
    request = urllib.request.Request(
        f"{server}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        return error.code, json.load(error)


LISTS, TEXTS = (PIXELS / 255).tolist(), [png(pixels) for pixels in PIXELS]


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": LISTS},
        {"inputs": PIXELS[..., 0].tolist()},
        {"inputs": TEXTS},
        {"inputs": {"image": [LISTS[0], TEXTS[1], LISTS[2]]}},
        {"instances": LISTS},
        {"dataframe_records": [{"image": TEXTS[0]}, {"image": LISTS[1]}, {"image": TEXTS[2]}]},
        {"dataframe_split": {"columns": ["image"], "data": [[text] for text in TEXTS]}},
    ],
    ids=["lists", "integers", "texts", "column", "instances", "records", "split"],
)
def test_it_answers_what_the_model_says(store, server, body):
    status, answer = ask(server, body)
    assert status == 200, answer
    ours = advebm.load(next((store / "at").rglob("model.safetensors")))
    y, p = ours.classify(PIXELS)
    rows = answer["predictions"]
    assert [row["class"] for row in rows] == y.tolist()
    assert np.allclose([row["probabilities"] for row in rows], p, atol=1e-6)
    assert np.allclose([row["energy"] for row in rows], ours.energy(PIXELS), atol=1e-5)
    assert [row["distribution"] for row in rows] == ["in" if s >= -2 else "out" for s in ours.score(PIXELS)]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"inputs": [[[0.0] * 7] * 8]}, "images must be [1, 8, 8] (channels, height, width)"),
        ({"inputs": [[[2.5] * 8] * 8]}, "images of floats must be in [0, 1], not in [2.5, 2.5]"),
        ({"inputs": [[[float("nan")] * 8] * 8]}, "images of floats must be in [0, 1], not in [nan, nan]"),
        ({"inputs": [[[300] * 8] * 8]}, "images of integers must be 0 to 255, not 300 to 300"),
        (
            {"inputs": [[[1, 2], [3]]]},
            "an image must be nested lists of numbers, of one length at each level, or a file in base64",
        ),
        ({"inputs": ["nonsense"]}, "an image given as text must be a file such as PNG in base64"),
        ({"inputs": TEXTS[0][:40] + TEXTS[0][44:]}, "the images must be in a column named image"),
        ({"inputs": [TEXTS[0][:40]]}, "an image given as text must be a file such as PNG in base64"),
        ({"inputs": []}, "images must be [1, 8, 8]"),
        (
            {"inputs": [None]},
            "an image must be nested lists of numbers, of one length at each level, or a file in base64",
        ),
        ({"inputs": {"picture": LISTS}}, "the images must be in a column named image"),
        ({"dataframe_records": []}, "the images must be in a column named image"),
        ({"pictures": LISTS}, "exactly one of the input fields"),
    ],
)
def test_wrong_input_gets_400_and_a_sentence(server, body, sentence):
    status, answer = ask(server, body)
    assert status == 400 and sentence in answer["message"] and "stack_trace" not in answer, answer


def test_a_model_without_classes_says_so(client):
    (version,) = (v for v in client.search_model_versions("name = 'tiny'") if v.tags["method"] == "at_ebm")
    found = mlflow.pyfunc.load_model(version.source).predict({"image": LISTS})
    assert (
        found["class"].isna().all() and found["probabilities"].isna().all() and (found["energy"] == -found["score"]).all()
    )


def promote(monkeypatch, capsys, *more):
    monkeypatch.setattr(sys, "argv", ["advebm", "promote", "--study", "tiny", *more])
    cli.main()
    return capsys.readouterr().out


def test_the_champion_is_the_best(store, client, monkeypatch, capsys):
    def refused(more=""):
        return error_of(f"promote --study tiny {more}", monkeypatch, capsys)

    at = client.get_model_version_by_alias("tiny", "challenger").tags["checkpoint.sha256"]
    assert "MLflow has no model of tiny/jem" in refused("--method jem")
    assert "version 2 (at) has no quality/*/fid by these params; `dvc repro` measures it" in refused()
    measure(at, "at", targeted=0.5, replay_buffer=0.1)
    tracking.sync()
    assert promote(monkeypatch, capsys) == "tiny: the champion is version 2 (at) 0.5 (quality/*/fid, lowest is best)\n"
    assert client.get_registered_model("tiny").aliases == {"champion": 2}
    assert promote(monkeypatch, capsys) == "tiny: version 2 (at) is the champion already\n"

    measure(train(model(store, "jem", 1), "jem", 1), "jem", sgld=0.7)
    tracking.sync()
    assert client.get_registered_model("tiny").aliases == {"champion": 2, "challenger": 4}
    told = "tiny: challenger 0.7, version 4 (jem), is not better than champion 0.5, version 2 (at) (quality/*/fid, lowest"
    assert told in refused() and client.get_registered_model("tiny").aliases["champion"] == 2
    forced = promote(monkeypatch, capsys, "--method", "jem", "--force")
    assert forced.startswith("tiny: the champion is version 4 (jem) 0.7, before it version 2 (at) 0.5")
    assert promote(monkeypatch, capsys, "--method", "at").startswith("tiny: the champion is version 2 (at) 0.5, before it")


@pytest.mark.soak
def test_mlflow_serves_the_champion(store, client, tmp_path):
    """`mlflow models serve` as docs/mlflow.md has it."""
    client.set_registered_model_alias("tiny", "champion", "2")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = re.search("mlflow models serve .*", Path("docs/mlflow.md").read_text())[0]
    command = command.replace("digits", "tiny").replace("5001", str(port))
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{store}/mlflow.db"}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            command.split(), env=environment, stdout=log, stderr=log, start_new_session=True, cwd=tmp_path
        )
    try:
        deadline = time.monotonic() + 120
        status = None
        while status is None and time.monotonic() < deadline and process.poll() is None:
            with suppress(URLError):
                status, answer = ask(f"http://127.0.0.1:{port}", {"inputs": {"image": [LISTS[0], TEXTS[1]]}})
            time.sleep(0.5)
        assert status == 200 and len(answer["predictions"]) == 2, (tmp_path / "log").read_text()
        assert ask(f"http://127.0.0.1:{port}", {"inputs": [1]})[0] == 400
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
    assert not list(outbox.boxes())
