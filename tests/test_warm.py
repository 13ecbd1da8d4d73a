"""Trainings that start from another model, and networks whose norm decides how they are sampled."""

import csv
import json

import numpy as np
import pytest
import torch

from advebm import cli, networks
from advebm.data import images
from advebm.networks.passes import Passes
from advebm.runtime import outbox
from advebm.runtime.parts import BATCH, SEED
from advebm.samplers.streams import Streams


def run(name, *given, **options):
    return cli.COMMANDS[name](*given, study="tiny", quiet=True, **options)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """The prepared data, class Gaussians and warm start of the study tiny."""
    folder = tmp_path_factory.mktemp("work")
    run("prepare", folder / "data")
    run("gaussians", folder / "data", folder / "g.safetensors")
    run("train", "warm", folder / "data", folder / "warm")
    return folder


def trained(work, out, method, **more):
    run("train", method, work / "data", out, work / "g.safetensors", **more)
    return networks.load(out / "model.safetensors")


class Killed(Exception):
    """Simulates the process being killed."""


def test_an_interrupted_training_from_a_warm_start_ends_with_the_same_bytes(work, tmp_path, monkeypatch):
    from advebm.runtime import state

    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("ADVEBM_TRACKING", "off")
    trained(work, tmp_path / "whole", "jeat", warm=work / "warm")
    save = state.State.save

    def saved(own, good, **how):
        save(own, good, always=True)
        raise Killed

    monkeypatch.setattr(state.State, "save", saved)
    with pytest.raises(Killed):
        trained(work, tmp_path / "again", "jeat", warm=work / "warm")
    monkeypatch.setattr(state.State, "save", save)
    assert list(tmp_path.glob("state/train-*/*.safetensors"))
    trained(work, tmp_path / "again", "jeat", warm=work / "warm")
    names = {file.name for file in (tmp_path / "whole").iterdir()}
    assert names == {file.name for file in (tmp_path / "again").iterdir()}
    for name in ("model.safetensors", "curves.csv", "replay_buffer.npz"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_training_that_diverges_begins_again_from_its_start(work, tmp_path, monkeypatch):
    """Before the first record there is no other state to roll back to."""
    from advebm import training

    check, failed = training.check_finite, []

    def once(record, step, bound):
        if not failed:
            failed.append(step)
            raise training.Diverged("training diverged, as this test says", step + 1)
        check(record, step, bound)

    initialise, initialised = networks.initialise, []
    monkeypatch.setattr(training, "check_finite", once)
    monkeypatch.setattr(networks, "initialise", lambda net, path: initialised.append(path) or initialise(net, path))
    _, header = trained(work, tmp_path / "m", "jeat", warm=work / "warm")
    events = json.loads((tmp_path / "m/recoveries.json").read_text())["recoveries"]
    assert [event["back_to"] for event in events] == [0] and header["init"]
    assert len(initialised) == 3  # once to check that it fits, and once for each attempt


def test_mlflow_is_told_of_both_phases(work, tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("ADVEBM_TRACKING", "outbox")
    trained(work, tmp_path / "m", "jeat", warm=work / "warm")
    (journal,) = tmp_path.glob("state/outbox/*/events.jsonl")
    events = outbox.parse(journal.read_bytes())
    logged = {event[2]: event[1] for event in events if event[0] == "metrics"}
    assert list(logged) == [int(row["step"]) for row in records(tmp_path / "m")]
    assert min(logged) < 0
    assert "train/energy_gap" in logged[max(logged)] and "train/energy_gap" not in logged[min(logged)]
    tags = {name: value for event in events if event[0] == "tags" for name, value in event[1].items()}
    assert tags["init.sha256"] == images.digest(work / "warm/model.safetensors")


def test_stability_trains_from_the_warm_start(work, tmp_path):
    run(
        "stability",
        work / "data",
        work / "g.safetensors",
        tmp_path / "s.json",
        method=["jeat"],
        seeds=1,
        warm=work / "warm",
    )
    assert json.loads((tmp_path / "s.json").read_text())["jeat"]["diverged"] == 0


def test_what_is_changed_of_the_warm_start_and_the_judge(work, tmp_path):
    for name in ("warm", "judge"):
        _, header = trained(work, tmp_path / name, name, change=["network.width=2"])
        assert header["network"]["width"] == 2


def records(folder):
    with (folder / "curves.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_method_starts_from_the_studys_warm_start(work, tmp_path):
    """Its norm is frozen at the final statistics of the warm start; its curves follow those of the warm start."""
    warm, about = networks.load(work / "warm/model.safetensors")
    net, header = trained(work, tmp_path / "m", "jeat", warm=work / "warm")
    assert about["method"] == "warm" and about["network"]["norm"] == "batch"
    assert header["network"]["norm"] == "frozen" and header["init"] == images.digest(work / "warm/model.safetensors")
    ours, theirs = net.state_dict(), warm.state_dict()
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert torch.equal(ours[key], value) == ("running" in key or "num_batches" in key), key
    before, rows = records(work / "warm"), records(tmp_path / "m")
    assert [int(row["step"]) for row in rows[: len(before)]] == [int(r["step"]) - int(before[-1]["step"]) for r in before]
    assert int(rows[len(before) - 1]["step"]) == 0 < int(rows[len(before)]["step"])
    for old, row in zip(before, rows, strict=False):
        assert old["validation/accuracy"] == row["validation/accuracy"] and row["train/energy_gap"] == ""


def test_a_training_starts_from_any_checkpoint_of_its_network(work, tmp_path):
    start, _ = trained(work, tmp_path / "one", "robust_jem")
    still = ["training.optimizer.lr=1.0e-30", "training.ema=0.0"]
    net, header = trained(work, tmp_path / "two", "jempp", init=tmp_path / "one/model.safetensors", change=still)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), start.parameters(), strict=True))
    assert header["init"] == images.digest(tmp_path / "one/model.safetensors")


@pytest.mark.parametrize(
    "method, options, message",
    [
        ("jeat", {}, "tiny.models.jeat starts from the study's warm start: give its folder as --warm"),
        ("jeat", {"warm": "data"}, "model.safetensors: no such model file"),
        ("jem", {"init": "none"}, "none: no such model file"),
        ("jem", {"init": "g.safetensors"}, "not a readable advebm model"),
        ("jem", {"init": "warm/model.safetensors"}, "has norm batch, which does not fit norm none"),
        ("jem", {"init": "warm/model.safetensors", "change": ["network.width=2"]}, "its network has width 1, not 2"),
        ("at_ebm", {"init": "warm/model.safetensors"}, "its network has outputs 10, not 1"),
        ("jem", {"change": ["network.width=-1"]}, r"models.jem.network.width: -1 is less than the minimum of 1"),
        ("jem", {"change": ["network.wid=2"]}, r"unknown key 'wid' \(did you mean width\?\)"),
    ],
)
def test_a_start_that_cannot_be_is_told(work, tmp_path, method, options, message):
    options = {key: work / value if isinstance(value, str) else value for key, value in options.items()}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        trained(work, tmp_path / "m", method, **options)
    assert not (tmp_path / "m").exists()


def test_a_study_without_a_warm_start_says_so(work, tmp_path):
    cli.COMMANDS["train"]("warm", work / "data", tmp_path / "warm", study="digits", quiet=True)
    assert [file.name for file in (tmp_path / "warm").iterdir()] == ["none.json"]


def test_a_network_trained_on_batch_statistics_is_sampled_on_them(work, tmp_path):
    net, header = trained(work, tmp_path / "m", "robust_jem", change=["network.norm=batch"])
    assert header["statistics"] == "batch" and header["network"]["norm"] == "batch"
    assert "statistics" not in trained(work, tmp_path / "at", "at", change=["network.norm=batch"])[1]
    model = tmp_path / "m/model.safetensors"
    run("sample", "robust_jem", model, work / "data", work / "g.safetensors", tmp_path / "s")
    made = images.load(tmp_path / "s/sgld.npz")
    ids = torch.arange(BATCH)  # the last batch is padded to the size of the others

    def sampled(mode):
        from advebm import config
        from advebm.data.gaussians import Gaussians

        recipe = config.recipes(config.read("params.yaml", "tiny"), "robust_jem")["sgld"]
        starts = {"gaussians": Gaussians.load(work / "g.safetensors").sample}
        with Passes().sampling(net.train(mode)) as f:
            return images.to_bytes(recipe(f, ids % 10, starts, Streams(SEED, "sample", "sgld", ids=ids))["langevin"])

    before = {key: value.clone() for key, value in net.state_dict().items() if "running" in key}
    assert np.array_equal(made.x, sampled(True)[:40]) and not np.array_equal(made.x, sampled(False)[:40])
    assert all(torch.equal(net.state_dict()[key], value) for key, value in before.items())
