"""Tests that take long, run by `make soak`."""

import json
import math
import os
import random
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import skimage.data
import torch
from PIL import Image

from advebm import config
from advebm.commands.gaussians import gaussians
from advebm.commands.prepare import prepare
from advebm.data import images
from advebm.data.gaussians import Gaussians
from advebm.data.prepared import about
from advebm.methods.base import Context
from advebm.training import fit
from test_pipeline import BIN, clone, locks, shell

pytestmark = pytest.mark.soak
PARAMS = Path("params.yaml")
STUDIES = ("cifar10", "cifar10-fast")
STEPS, BATCH, CHAIN = 20, 2, 1  # chains and attacks take one step: networks of this size are slow without a GPU


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory):
    """Real CIFAR-10, prepared, with its class Gaussians."""
    folder = tmp_path_factory.mktemp("cifar10")
    prepare(folder, study="cifar10-smoke", params=PARAMS)  # the same images as cifar10, with fewer out-distribution images
    gaussians(folder, folder / "gaussians.safetensors", study="cifar10", params=PARAMS)
    sets = {name: images.load(folder / f"{name}.npz") for name in ("train", "validation", "outliers")}
    return about(folder), sets, Gaussians.load(folder / "gaussians.safetensors")


@pytest.mark.parametrize(
    ("study", "name"), [(study, name) for study in STUDIES for name in config.read(PARAMS, study)["models"]]
)
def test_twenty_steps_on_cifar10_with_the_studys_network(cifar10, study, name):
    described, sets, start = cifar10
    entry = config.read(PARAMS, study, name)
    for part, key in (
        *((part, "steps") for part in ("attack", "attack_out", "ascent", "descent", "sampler")),
        ("sampler", "outer"),
    ):
        if key in entry["models"][name].get(part, {}):
            entry["models"][name][part][key] = min(CHAIN, entry["models"][name][part][key])
    model = config.model(entry, name)
    epochs = STEPS / (len(sets["train"].x) // BATCH)
    training = replace(model.training, batch=BATCH, epochs=epochs, record_every=STEPS)
    torch.manual_seed(0)
    net = model.network.build(described["shape"], model.method.outputs(described["classes"]))
    before = [parameter.clone() for parameter in net.parameters()]
    records = []
    fit(
        model.method,
        net,
        sets["train"],
        sets["validation"][:20],
        training,
        Context(0, tuple(described["shape"]), described["classes"], start, "cpu"),
        log=lambda step, record: records.append((step, record)),
        outliers=sets["outliers"] if model.method.outliers else None,
    )
    [(step, record)] = records
    print(study, name, {key: float(f"{value:.4g}") for key, value in record.items()})
    assert step == STEPS and all(math.isfinite(value) for value in record.values())
    assert any(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def photographs(root):
    """Folders of crops of photographs, of many sizes, under the names of the sources of faces64."""
    rng = np.random.default_rng(0)
    for folder, name, count in (
        ("celeba-hq/faces", "astronaut", 260),
        ("afhq-cat/train/cat", "chelsea", 80),
        ("afhq-cat/test/cat", "chelsea", 80),
        ("tiny-imagenet-200/train/one", "coffee", 200),
        ("tiny-imagenet-200/val/images", "rocket", 80),
    ):
        picture = Image.fromarray(getattr(skimage.data, name)())
        (root / folder).mkdir(parents=True)
        for i in range(count):
            width, height = rng.integers(64, 128, 2)
            left, top = rng.integers(0, picture.width - width), rng.integers(0, picture.height - height)
            picture.crop((left, top, left + width, top + height)).save(root / folder / f"{i}.png")


def test_one_class_of_photographs_from_folders_to_report(tmp_path):
    photographs(tmp_path / "raw")

    def choose(folder):
        params = folder / "params.yaml"
        params.write_text(params.read_text().replace("method: robust_jem", "method: at_ebm", 1))

    folder = clone(tmp_path / "project", "faces-smoke", choose)
    shell(folder, "dvc", "repro", ADVEBM_DATA=tmp_path / "raw", ADVEBM_TRACKING="off")
    results = json.loads((folder / "report.json").read_text())
    assert results["calibration"] == results["autoattack"] == results["applications"] == {}
    assert results["robustness"]["clean"] is None and set(results["ood"]) == {"imagenet", "cats", "uniform"}
    assert results["quality"]["ascent"]["fid"] > 0 and 0 < results["neighbours"]["ascent"]["copying"]["l2"]["p"] < 1


def test_digits_twice_gives_the_same_bytes(tmp_path):
    """The default study, from data to report, in two folders."""
    folders = [clone(tmp_path / name, "digits") for name in ("one", "two")]
    for folder, tracking in zip(folders, ("on", "off"), strict=True):
        shell(folder, "dvc", "repro", ADVEBM_TRACKING=tracking)
    one, two = map(locks, folders)
    assert one == two and len(one) == 10


@pytest.mark.parametrize("method", ["robust_jem", "at_ebm"])
def test_twenty_kills_through_dvc_change_no_byte(tmp_path, method):
    """SIGKILL the training that `dvc repro` runs at 20 random moments, half of them while a state is being written."""
    folder, rng = clone(tmp_path / "project", "digits"), random.Random(0)
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(
        'import os, sys\nif "AT" in os.environ and {"stages/run.py", "train"} <= set(sys.orig_argv):\n    import dying\n'
    )
    shell(folder, "dvc", "repro", f"stages/train/dvc.yaml:train@{method}")
    command = ["dvc", "repro", "--force", "--single-item", f"stages/train/dvc.yaml:train@{method}"]
    model = folder / "models/digits" / method
    whole = {file.relative_to(model): file.read_bytes() for file in model.rglob("*") if file.is_file()}
    killed, completed = [], []
    while len(killed) < 20:
        shutil.rmtree(model, ignore_errors=True)
        own = {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "PYTHONPATH": f"{hook}:{Path(__file__).parent}",
            "OMP_NUM_THREADS": "1",
        }
        environment = os.environ | own
        if len(killed) % 2:
            environment["AT"] = str(rng.randint(1, 6))
        running = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        moment = time.monotonic() + rng.uniform(5, 40)
        while running.poll() is None and (len(killed) % 2 or time.monotonic() < moment):
            time.sleep(0.1)
        for process in psutil.Process().children(recursive=True):
            if "stages/run.py train " in " ".join(process.cmdline()):
                process.kill()
        log = running.communicate()[0].decode()
        if running.returncode == 0:  # it completed before the kill: start again
            assert whole == {file.relative_to(model): file.read_bytes() for file in model.rglob("*") if file.is_file()}
            completed.append(len(killed))
        else:
            killed.append(log.count("is damaged"))
            print(f"{method}: kill {len(killed)}, {len(completed)} completed", flush=True)
    shell(folder, *command)
    assert whole == {file.relative_to(model): file.read_bytes() for file in model.rglob("*") if file.is_file()}
    assert not list((folder / "state").glob("train-*")) and not any(killed)
    print(f"{method}: 20 kills, {len(completed) + 1} trainings completed, each byte-identical to the uninterrupted one")
