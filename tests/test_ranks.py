"""Several processes that share the work, compared with one that does it alone."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file

from advebm import config, networks
from advebm.commands.info import shares
from advebm.data.batches import Batch
from advebm.energy import grad, marginal
from advebm.methods import METHODS
from advebm.methods.base import Context
from advebm.networks.passes import Passes
from advebm.networks.wrn import WideResNet
from advebm.runtime import ranks
from advebm.samplers.buffer import Buffer, Replay, uniform_start
from advebm.samplers.pgd import Ascent
from test_training import tiny

ROOT = Path(__file__).parents[1]
SHARED = sorted(name for name, method in METHODS.items() if method.shared)


def work():
    """The results by which one and several processes are compared: networks and records of every method that can be shared,
    batch norm, a replay buffer, parts of a measurement."""
    found = {}
    for name in SHARED:
        net, records = tiny(name)
        found[f"{name}/weights"] = torch.cat([p.detach().flatten() for p in net.parameters()])
        found[f"{name}/records"] = torch.tensor([list(record.values()) for record in records.values()])
    torch.manual_seed(0)
    net = WideResNet(depth=10, width=1, norm="batch").build((1, 8, 8), 3)
    shared = ranks.parallel(net)
    for x in torch.rand(3, 8, 1, 8, 8):
        shared(ranks.share(x)).square().mean().backward()
    found["batch norm/gradients"] = torch.cat([p.grad.flatten() for p in net.parameters()])
    with Passes().sampling(net) as f:
        found["batch norm/chain"] = ranks.gather(grad(marginal(f), ranks.share(x)))
    found |= {f"batch norm/{name}": value for name, value in net.named_buffers()}
    buffer = Buffer(Replay(size=12, reinit=0.3), uniform_start(torch.Size((1, 2, 2)), "cpu"), 5, "cpu")
    for step in range(4):
        x, places = buffer.draw(step, 6 // ranks.size())
        buffer.store(places, x + 1)
    found["buffer"] = buffer.images
    method = METHODS["at_ebm"](ascent=Ascent(steps=1, step_size=0.1), start=("uniform", "outliers", "uniform"))
    method.begin(Context(0, (1, 2, 2), 10, None, "cpu"))
    x_out = ranks.share(torch.rand(8, 1, 2, 2, generator=torch.Generator().manual_seed(0)))
    found["starts"] = ranks.gather(method.starts(Batch(x_out, None, x_out), 0))
    found["parts"] = torch.cat(ranks.spread(lambda i: torch.full((i,), i), range(5)))
    return found


def shared(processes, project, *arguments, start=subprocess.run):
    """Run a stage or a script with this number of processes."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text()) | {"launch": {"processes": processes}}
    params["tiny"]["training"]["epochs"] = 2
    params["tiny"]["samples"] = 502  # more than one batch of samples
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_", "ADVEBM_"))}
    environment = {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'pkg'}:{ROOT / 'tests'}"}
    command = [sys.executable, *map(str, arguments)]
    return start(command, cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_learn_what_one_does(tmp_path):
    """Half the batch each: the same losses and weights, up to rounding, which Adam amplifies to 1e-4."""
    alone = work()
    script = [str(ROOT / "tests" / "sharing.py"), "two"]
    launch = f"import sys; from advebm.runtime import ranks; sys.exit(ranks.launch(2, {script}))"
    (tmp_path / "params.yaml").symlink_to(ROOT / "params.yaml")
    done = subprocess.run(
        [sys.executable, "-c", launch],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'pkg'}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    together = load_file(tmp_path / "two")
    assert alone.keys() == together.keys()
    for name, value in alone.items():
        rtol, atol = (0, 3e-4) if name.endswith("weights") else (1e-4, 2e-6)
        torch.testing.assert_close(
            together[name], value, rtol=rtol, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_batch_norms_are_replaced_by_ones_of_the_same_parameters_and_buffers():
    net = WideResNet(depth=10, width=1, norm="batch").build((1, 8, 8), 3)
    net.trunk[0].eval()
    before, modes = net.state_dict(keep_vars=True), [layer.training for layer in net.modules()]
    layers = [layer for layer in net.modules() if type(layer) is torch.nn.BatchNorm2d]
    assert ranks.synchronised(net) is net
    after = net.state_dict(keep_vars=True)
    assert after.keys() == before.keys() and all(after[name] is before[name] for name in before)
    assert modes == [layer.training for layer in net.modules()]
    assert sum(type(layer) is ranks.BatchNorm for layer in net.modules()) == len(layers) > 0
    assert all(type(layer) is torch.nn.BatchNorm2d for layer in layers), "the layers that were replaced must be unchanged"


def test_a_batch_that_cannot_be_shared_is_told(monkeypatch):
    monkeypatch.setattr(ranks, "size", lambda: 3)
    with pytest.raises(ValueError, match="3 processes cannot share 8 images evenly; take a multiple"):
        ranks.share(torch.zeros(8, 1))
    with pytest.raises(ValueError, match="cannot share a replay buffer of 20 evenly"):
        Buffer(Replay(size=20), uniform_start(torch.Size((1, 2, 2)), "cpu"), 0, "cpu")


def test_what_processes_share_is_checked_of_every_training_and_by_default():
    digits = config.read(ROOT / "params.yaml", "digits")
    sizes = {"models.jem.training.batch": 64, "models.jem.buffer.size": 10_000, "judge.training.batch": 64}
    assert shares(digits, "jem") == sizes
    assert shares(digits, "glow") == {"judge.training.batch": 64}, "a flow is trained by one process"
    warm = shares(config.read(ROOT / "params.yaml", "cifar10-fast"), "robust_jem")
    assert set(warm) == {f"{model}.training.batch" for model in ("models.robust_jem", "judge", "warm")} | {
        "models.robust_jem.buffer.size"
    }


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with the prepared data and class Gaussians of tiny."""
    folder = tmp_path_factory.mktemp("shared")
    run = ROOT / "stages" / "run.py"
    shared(1, folder, run, "prepare", "--study", "tiny", "--out", "data")
    shared(1, folder, run, "gaussians", "--study", "tiny", "--data", "data", "--out", "gaussians.safetensors")
    return folder


def train(processes, project, **more):
    where = ["--study", "tiny", "--data", "data", "--gaussians", "gaussians.safetensors", "--out", "model"]
    return shared(processes, project, ROOT / "stages" / "run.py", "train", "robust_jem", *where, **more)


def test_a_killed_process_ends_the_job_which_goes_on_with_another_number(project):
    """The job ends with one clear line, and any number of processes can resume from its state."""
    process = train(2, project, start=subprocess.Popen)
    kept = lambda: list((project / "state").glob("train-*/*.safetensors"))  # noqa: E731
    while not kept():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    victims = [child for child in psutil.Process(process.pid).children(True) if child.environ().get("RANK") == "1"]
    victims[0].send_signal(signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "Traceback" not in err
    assert "advebm: process 1 of 2 was killed by SIGKILL; run the same command to resume" in err
    assert kept() and not (project / "model" / "model.safetensors").exists()
    alone = train(1, project)
    assert alone.returncode == 0, alone.stderr
    assert int(re.search(r"(\d+)/\d+ \[", alone.stderr)[1]) > 0, "must resume from the state of two"
    assert not kept()
    steps = np.loadtxt(project / "model" / "curves.csv", delimiter=",", skiprows=1, usecols=0)
    assert len(steps) == len(set(steps)) > 5


def test_samples_are_shared(project):
    """The images are those that one process makes; only the leader writes files."""
    torch.manual_seed(0)
    networks.save(project / "model.safetensors", WideResNet(depth=10, width=1).build((1, 8, 8), 10), method="robust_jem")
    given = ["--study", "tiny", "--model", "model.safetensors", "--data", "data"]
    for processes in (1, 2):
        more = ["--gaussians", "gaussians.safetensors", "--out", f"samples{processes}"]
        done = shared(processes, project, ROOT / "stages" / "run.py", "sample", "robust_jem", *given, *more)
        assert done.returncode == 0, done.stderr
    for recipe in ("combined.npz", "sgld.npz"):
        alone, together = (np.load(project / f"samples{n}" / recipe) for n in (1, 2))
        assert np.array_equal(alone["x"], together["x"]) and np.array_equal(alone["y"], together["y"])
    assert not list((project / "state").glob("*-*")), "no state may remain"
