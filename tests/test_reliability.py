"""Interruption, divergence and damage lose nothing: these tests kill the real command."""

import contextlib
import json
import os
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest
import torch
import yaml
from typer.testing import CliRunner

from advebm import cli
from advebm.commands.sample import sample
from advebm.commands.train import train
from advebm.runtime import code, outbox, state
from advebm.runtime.signals import Stopped
from advebm.runtime.state import Cache, Good, State

PYTHONPATH = f"{Path('pkg').resolve()}:{Path('tests').resolve()}"
RUN = """
import os
if "AT" in os.environ:
    import dying
if "CUT" in os.environ:
    import power
from advebm.runtime import state
if {"AT", "CUT"} & set(os.environ):
    save = state.State.save
    state.State.save = lambda self, good, **how: save(self, good, always=True)  # a state at every record
from advebm.cli import main
main()
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with the prepared data of tiny, whose trainings take 20 steps and record every fourth."""
    project = tmp_path_factory.mktemp("project")
    content = yaml.safe_load(Path("params.yaml").read_text())
    for entry in (content["tiny"], content["tiny"]["models"]["at_ebm"]):
        entry.setdefault("training", {}).update(epochs=0.4, record_every=4)
    content["tiny"]["models"]["robust_jem"]["buffer"] = {"size": 200}
    (project / "params.yaml").write_text(yaml.safe_dump(content))
    here(project, "prepare", "--study", "tiny", "--out", "data", "-q")
    here(project, "gaussians", "--study", "tiny", "--data", "data", "--out", "g.safetensors", "-q")
    return project


def here(project, *arguments):
    """Run a command in this process: for what other tests start from."""
    with contextlib.chdir(project):
        done = CliRunner().invoke(cli.app, list(map(str, arguments)))
    assert done.exit_code == 0, done.output + repr(done.exception)


def start(project, *arguments, **environment):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_", "ADVEBM_"))}
    return subprocess.Popen(
        [sys.executable, "-c", RUN, *map(str, arguments)],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": PYTHONPATH, **environment},
    )


def call(project, *arguments, code=0, **environment):
    process = start(project, *arguments, **environment)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, out + err
    return out + err


def training(method, out, *more):
    return ("train", method, "--study", "tiny", "--data", "data", "--gaussians", "g.safetensors", "--out", out, "-q", *more)


def files(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def states(project):
    return sorted((project / "state").glob("train-*/*.safetensors"))


@pytest.fixture(scope="module")
def whole(project):
    """The output of an uninterrupted training of robust_jem."""
    here(project, *training("robust_jem", "whole"))
    assert not states(project), "the state of a completed training must be deleted"
    return project / "whole"


@pytest.mark.parametrize("method", ["robust_jem", "at_ebm"])
def test_a_killed_training_goes_on_and_ends_the_same(project, whole, method):
    if method != "robust_jem":
        whole = project / f"whole_{method}"
        here(project, *training(method, whole))
    out = f"killed/{method}"
    for at in (1, 3, 8):  # while the first state is written; after a rename; later, in the resumed run
        call(project, *training(method, out), code=-9, AT=str(at))
        assert len(states(project)) == min(at // 3, 2)
        shown = files(project / out)  # a person can open these meanwhile, and no stage takes them for a model
        assert {"curves.csv", "curves.png"} < {file.name for file in shown} and Path("model.safetensors") not in shown
        steps = [int(line.split(b",")[0]) for line in shown[Path("curves.csv")].splitlines()[1:]]
        assert steps[0] == 4 and {int(file.stem[-6:]) for file in shown if file.parent.name == "grids"} == set(steps)
        shutil.rmtree(project / out)  # as DVC does
    log = call(project, *training(method, out))
    assert "damaged" not in log and not states(project) and not list((project / "state").rglob("*.part"))
    assert files(project / out) == files(whole)


def test_a_power_cut_loses_only_what_was_not_forced_to_the_disk(project, whole, tmp_path):
    store = f"sqlite:///{tmp_path}/mlflow.db"
    for at in (35, 2, 7, 20, 45, 0):  # the last cut is just after the run completes
        call(project, *training("robust_jem", "cut"), code=-9, CUT=str(at), MLFLOW_TRACKING_URI=store)
        assert at == 0 or states(project)
    assert files(project / "cut") == files(whole)
    assert "damaged" not in call(project, "sync", MLFLOW_TRACKING_URI=store)
    finished = [run for run in tracked(project, store) if run[0] == "FINISHED"]
    assert [run[1:4] for run in finished] == [["robust_jem", "done", [4, 8, 12, 16, 20]]]


def test_a_stopped_training_says_so_and_goes_on(project):
    here(project, *training("jem", "whole_jem"))
    for number in (signal.SIGTERM, signal.SIGINT):
        before = states(project)
        process = start(project, *training("jem", "stopped"))
        while states(project) == before and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 128 + number, err
        assert err == f"advebm: stopped by {number.name}; run the same command to resume\n"
    call(project, *training("jem", "stopped"))
    assert files(project / "stopped") == files(project / "whole_jem")


def test_a_stage_is_stopped_when_dvc_is_killed(project, whole):
    """DVC runs it through a shell, which goes on to wait for it. DVC would delete the model of a stage that went on."""
    stage = shlex.join([sys.executable, str(Path("stages/run.py").resolve()), *training("robust_jem", "orphan")])
    dvc = "import subprocess; subprocess.run(['sh', '-c', input()])"
    environment = os.environ | {"DVC_ROOT": str(project), "ADVEBM_TRACKING": "off", "OMP_NUM_THREADS": "1"}
    before, pipes = states(project), dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen([sys.executable, "-c", dvc], cwd=project, text=True, env=environment, **pipes)
    process.stdin.write(stage + "\n")
    process.stdin.flush()
    while states(project) == before and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    _, err = process.communicate(timeout=60)  # once the stage has ended
    assert err == "advebm: stopped by SIGTERM; run the same command to resume\n"
    assert states(project) != before and not (project / "orphan/model.safetensors").exists()
    call(project, *training("robust_jem", "orphan"))
    assert states(project) == before and files(project / "orphan") == files(whole)


def test_a_training_does_not_mix_with_an_earlier_one(project, whole):
    shutil.copytree(whole, project / "used")
    again = ("--seed", "1")
    call(project, *training("robust_jem", "used", *again), code=-9, AT="1")
    assert (project / "used/curves.csv").read_bytes() != (whole / "curves.csv").read_bytes()
    assert not (project / "used/model.safetensors").exists()
    log = call(project, *training("robust_jem", "whole", "--init", "whole/model.safetensors"), code=2)
    assert log.startswith("advebm: whole/model.safetensors: training would overwrite the model that it starts from; give ")


def test_a_stage_leaves_nothing_of_an_earlier_one(project, whole, monkeypatch):
    monkeypatch.chdir(project)
    shutil.copytree(whole, "mine")
    for name in ("recoveries.json", "none.json", "notes.txt"):
        Path("mine", name).write_text("{}")
    given = {"study": "tiny", "data": Path("data"), "quiet": True}
    train("standard", out=Path("mine"), **given)
    kept = {"curves.csv", "curves.pdf", "curves.png", "live.html", "model.safetensors", "notes.txt"}
    assert set(map(str, files(Path("mine")))) == kept, "only a file that train never writes stays"

    given |= {"model": whole / "model.safetensors", "gaussians": Path("g.safetensors")}
    content = yaml.safe_load(Path("params.yaml").read_text())
    for name in ("first", "second"):
        chain = {"steps": 1, "step_size": 0.1, "noise": 0.01}
        content["tiny"]["sampling"]["jem"] = {name: {"recipe": "sgld", "start": "uniform", "chain": chain}}
        Path("recipe.yaml").write_text(yaml.safe_dump(content))
        sample("jem", out=Path("drawn"), params=Path("recipe.yaml"), **given)
    drawn = {"second.npz", "pictures/second.png", "pictures/second_strip.png"}
    assert drawn == {name for name in map(str, files(Path("drawn"))) if "sgld" not in name}


def test_damaged_states_are_named_and_what_was_before_is_used(project, whole):
    call(project, *training("robust_jem", "damaged"), code=-9, AT="8")
    older, newer = states(project)
    newer.write_bytes(newer.read_bytes()[:-7] + bytes(7))
    log = call(project, *training("robust_jem", "damaged"), code=-9, AT="4")
    assert f"{newer.name}: is damaged and was removed; resuming from the previous state" in log
    older, newer = states(project)
    older.write_bytes(b"")
    newer.write_bytes(newer.read_bytes()[:-7])
    log = call(project, *training("robust_jem", "damaged"))
    assert log.count("is damaged") == 2 and "Traceback" not in log
    assert files(project / "damaged") == files(whole)


def changed(project, name, **changes):
    """Write a params file with other training parameters of robust_jem."""
    content = yaml.safe_load((project / "params.yaml").read_text())
    content["tiny"]["models"]["robust_jem"].setdefault("training", {}).update(changes)
    (project / name).write_text(yaml.safe_dump(content))
    return "--params", name


def test_another_spec_does_not_go_on_from_this_state(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))

    shutil.copytree(code.PACKAGE, tmp_path / "advebm", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "PACKAGE", tmp_path / "advebm")
    modules = ["advebm.commands.train"]

    def interrupted(spec, out="out"):
        """The spec of the state that it finds; it saves its own spec and is then interrupted."""
        with contextlib.suppress(KeyError), state.opened("train", tmp_path / out, {"spec": spec}, *modules) as kept:
            found = kept.load()
            kept.save(Good({}, {"spec": spec}), always=True)
            raise KeyError
        return found and found.about["spec"]

    assert [interrupted(spec) for spec in ("a", "b", "a", "b")] == [None, None, "a", "b"]
    assert [interrupted("a", out) for out in ("other", "other", "out")] == [None, "a", "a"]
    for command, edited in (("train", "commands/train"), ("sample", "commands/sample"), ("measure", "config")):
        modules[:] = [f"advebm.commands.{command}"]
        interrupted("a")
        assert interrupted("a") == "a"
        (tmp_path / f"advebm/{edited}.py").open("a").write("\n# edited\n")
        assert interrupted("a") is None, f"{edited} was edited"


def test_divergence_is_rolled_back_and_then_an_error(project):
    hot = {"name": "adam", "lr": 3.0}
    once = changed(project, "once.yaml", optimizer=hot, energy_bound=2000.0, recovery={"lr": 0.001})
    log = call(project, *training("robust_jem", "hot", *once))
    events = json.loads((project / "hot/recoveries.json").read_text())["recoveries"]
    assert len(events) == 1 and "training diverged at step" in events[0]["event"] and events[0]["event"] in log
    assert f"resuming from step {events[0]['back_to']}" in log

    call(project, *training("robust_jem", "hot_killed", *once), code=-9, AT="8")
    call(project, *training("robust_jem", "hot_killed", *once))
    assert files(project / "hot") == files(project / "hot_killed")

    never = changed(project, "never.yaml", optimizer=hot, energy_bound=2000.0, recovery={"lr": 1.0, "attempts": 2})
    log = call(project, *training("robust_jem", "never", *never), code=1)
    last = log.strip().splitlines()[-1]
    assert last.startswith("advebm: training diverged at step") and last.endswith("; 2 recoveries did not help")
    assert "Traceback" not in log and not (project / "never" / "model.safetensors").exists()


def test_a_signal_counts_wherever_it_comes(tmp_path, monkeypatch, capfd):
    """Python discards exceptions raised while it collects an object."""

    class Collected:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)

    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    with pytest.raises(Stopped, match="SIGTERM"), state.opened("train", tmp_path / "out", "a key"):
        Collected()
        time.sleep(10)
    assert "Exception ignored" not in capfd.readouterr().err


def test_two_processes_do_not_write_one_folder(project, monkeypatch):
    monkeypatch.chdir(project)
    (project / "shared").mkdir()
    with state.opened("train", project / "shared", "a key"):
        log = call(project, *training("standard", "shared"), code=1)
        assert log == "advebm: shared: another process is writing it; wait for it, or stop it\n"
    (project / "copy/shared").mkdir(parents=True)
    with state.opened("train", Path("shared"), "a key") as first, monkeypatch.context() as patch:
        patch.setenv("DVC_ROOT", str(project))
        patch.chdir(project / "copy")  # as DVC runs queued experiments
        with state.opened("train", Path("shared"), "a key") as second:
            assert second.folder.name == first.folder.name.replace("-0", "-1"), "each copy of the tree has its own state"


def test_a_full_disk_leaves_the_last_good_state(tmp_path, monkeypatch):
    kept = State(tmp_path)
    kept.save(Good({"x": torch.arange(3)}, {"step": 1}))

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            kept.save(Good({"x": torch.arange(4)}, {"step": 2}), always=True)
    assert len(list(tmp_path.iterdir())) == 1
    assert kept.load().about == {"step": 1} and kept.load().tensors["x"].tolist() == [0, 1, 2]


def test_states_are_two_at_most_and_cost_a_twentieth(tmp_path, monkeypatch):
    kept = State(tmp_path)
    clock = iter((100.0, 100.0, 101.0, 120.0, 121.5, 121.5, 123.0))  # a save of 1 s, so the next is due after 20 s
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    for step in range(3):
        kept.save(Good({}, {"step": step}))
    assert len(list(tmp_path.iterdir())) == 2 and kept.load().about == {"step": 2}


def test_a_part_is_computed_once(tmp_path):
    kept = State(tmp_path)
    made = kept.part("a", lambda: torch.rand(3, dtype=torch.float64))
    assert torch.equal(kept.part("a", lambda: 1 / 0), made)
    (file,) = (tmp_path / "parts").iterdir()
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    assert torch.equal(kept.part("a", lambda: torch.zeros(2)), torch.zeros(2)), "a damaged part must be computed again"
    (file,) = (tmp_path / "parts").iterdir()
    kept.part("b", lambda: torch.ones(2))
    (other,) = set((tmp_path / "parts").iterdir()) - {file}
    file.rename(other.with_name(f"{other.name.split('-')[0]}-{file.name.split('-')[1]}"))
    other.unlink()
    assert torch.equal(kept.part("b", lambda: torch.ones(3)), torch.ones(3)), "the part of another name must not be taken"


def test_what_a_cache_holds_is_found_by_others_until_it_is_the_oldest(tmp_path):
    folder = tmp_path / "features"
    made = Cache(folder).part("a", lambda: {"x": torch.rand(100)})
    assert torch.equal(Cache(folder).part("a", lambda: 1 / 0)["x"], made["x"])
    assert Cache(folder, "other code").part("a", lambda: {"x": torch.zeros(1)})["x"].shape == (1,)
    (folder / "torn.safetensors.part").write_bytes(b"")
    size = max(file.stat().st_size for file in folder.iterdir())
    bounded = Cache(folder, bound=3 * size)
    for name in "bac":  # a is cached
        bounded.part(name, lambda: {"x": torch.rand(100)})
    bounded.part("d", lambda: {"x": torch.rand(100)})
    assert len(list(folder.iterdir())) == 3
    assert torch.equal(bounded.part("a", lambda: 1 / 0)["x"], made["x"])
    with pytest.raises(ZeroDivisionError):
        bounded.part("b", lambda: 1 / 0)
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes()[:-1] + b"!")
    assert bounded.part("a", lambda: {"x": torch.zeros(2)})["x"].tolist() == [0, 0], "a damaged part must be computed again"


def tracked(project, store):
    """The runs of a store, each with the steps of its training loss."""
    code = """
import json
from advebm.runtime import tracking

client = tracking.client()
runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
print(json.dumps([[run.info.status, run.data.tags["method"], run.data.tags.get("stage.train"),
    [m.step for m in client.get_metric_history(run.info.run_id, "train/loss")],
    sorted(file.path for file in client.list_artifacts(run.info.run_id)),
    [client.get_logged_model(model.model_id).status for model in run.outputs.model_outputs]] for run in runs]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=project,
        capture_output=True,
        text=True,
        env={**os.environ, "MLFLOW_TRACKING_URI": store, "PYTHONPATH": PYTHONPATH},
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_a_killed_training_is_one_run(project, tmp_path):
    store = f"sqlite:///{tmp_path}/mlflow.db"
    call(project, *training("robust_jem", "tracked"), code=-9, AT="5", MLFLOW_TRACKING_URI=store)
    call(project, *training("robust_jem", "tracked"), MLFLOW_TRACKING_URI=store)
    shown = [["curves.png", "grids"], ["READY"]]
    assert tracked(project, store) == [["FINISHED", "robust_jem", "done", [4, 8, 12, 16, 20], *shown]]
    assert not list((project / "state/outbox").iterdir())


def test_without_mlflow_nothing_stops_and_sync_sends_what_waited(project, tmp_path):
    store = f"sqlite:///{tmp_path}/mlflow.db"
    call(project, "sync", MLFLOW_TRACKING_URI=store)  # creates the store
    tracked(project, store)
    shutil.copy(tmp_path / "mlflow.db", tmp_path / "read_only.db")
    read_only = f"sqlite:///file:{tmp_path}/read_only.db?mode=ro&uri=true"
    locked = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    locked.execute("BEGIN EXCLUSIVE")
    for count, uri in enumerate(("http://127.0.0.1:9", store, read_only), 1):
        log = call(project, *training("standard", "untracked"), MLFLOW_TRACKING_URI=uri)
        assert log.count("advebm: MLflow: ") == 1 and "`advebm sync` sends what is left" in log and "Traceback" not in log
        assert len(list((project / "state/outbox").iterdir())) == count
    locked.close()
    assert "Traceback" not in call(project, "sync", code=1, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    first = min((project / "state/outbox").iterdir()) / "events.jsonl"
    records = first.read_bytes()
    begin, *others = outbox.parse(records)
    refused = ["metrics", {"loss[0]": 1.0}, 4, 0]  # a name that MLflow refuses
    first.write_bytes(b"".join(map(outbox.line, (begin, refused, *others))))
    log = call(project, "sync", code=2, MLFLOW_TRACKING_URI=store)
    assert f"MLflow refuses the records in {first.parent}" in log and "the other stages were sent" in log
    assert list((project / "state/outbox").iterdir()) == [first.parent]
    first.write_bytes(records)
    assert "sent the outbox of 1 stages" in call(project, "sync", MLFLOW_TRACKING_URI=store)
    assert [run[:4] for run in tracked(project, store)] == [["FINISHED", "standard", "done", [4, 8, 12, 16, 20]]]
    assert "sent the outbox of 0 stages" in call(project, "sync", MLFLOW_TRACKING_URI=store)
    assert not list((project / "state/outbox").iterdir())


def test_a_training_that_waited_and_its_measurement_are_one_run(project, tmp_path):
    """Whichever MLflow hears of first. The measurement sends what waits, and `summary` tells what it does not count."""
    measured = ("calibration", "standard", "--study", "tiny", "--data", "data", "--model", "late/model.safetensors", "-q")
    for i, sent in enumerate(("measured", "trained")):
        store = f"sqlite:///{tmp_path}/{sent}.db"
        call(project, *training("standard", "late"), ADVEBM_TRACKING="outbox", MLFLOW_TRACKING_URI=store)
        (waits,) = (project / "state/outbox").iterdir()
        if sent == "measured":
            waits.rename(tmp_path / "held")
        else:
            log = call(project, "summary", "--study", "tiny", code=2, MLFLOW_TRACKING_URI=store)
            assert f"1 stages of tiny wait in {waits.parent} and are not counted; `advebm sync`" in log
        call(project, *measured, "--out", f"calibration{i}", MLFLOW_TRACKING_URI=store)
        if sent == "measured":
            (tmp_path / "held").rename(waits)
            assert "sent the outbox of 1 stages" in call(project, "sync", MLFLOW_TRACKING_URI=store)
        assert not list((project / "state/outbox").iterdir())
        (run,) = mlflow.MlflowClient(store).search_runs(["1"])
        assert run.info.status == "FINISHED" and run.info.end_time >= run.info.start_time
        assert run.data.tags["stage.train"] == run.data.tags["stage.calibration"] == "done"
        assert run.data.params["seed"] == "0" and run.data.params["calibration.bins"] == "20"
        assert run.data.metrics["calibration/ece"]


@pytest.fixture(scope="module")
def scale(project, whole):
    """What quality needs besides a model: samples, a model used as the judge, and the baselines."""
    judge, study = ("--judge", whole / "model.safetensors"), ("--study", "tiny", "--data", "data", "-q")
    images, baselines = project / "images", project / "baselines"
    given = (*study, "--gaussians", "g.safetensors")
    here(project, "sample", "robust_jem", "--model", whole / "model.safetensors", *given, "--out", images)
    here(project, "baselines", *judge, *given, "--out", baselines)
    return (*judge, "--samples", images, "--baselines", baselines)


@pytest.mark.parametrize("command", ["sample", "ood", "quality", "steps"])
def test_a_killed_measurement_goes_on_and_ends_the_same(project, whole, scale, command):
    gaussians, judge = ("--gaussians", "g.safetensors"), scale[:2]
    steps = (*gaussians, *judge, "--images", "40", "--lengths", "1,3")
    more = {"sample": gaussians, "quality": scale, "steps": steps}.get(command, ())
    model = ("--model", whole / "model.safetensors", "--data", "data")
    out = {name: f"{command}/{name}" + ("/quality.json" if command == "quality" else "") for name in ("once", "again")}
    arguments = (command, "robust_jem", "--study", "tiny", *model, *more, "-q", "--out")
    here(project, *arguments, out["once"])
    call(project, *arguments, out["again"], code=-9, AT="5")  # while its second part is written
    assert list((project / "state").glob(f"{command}-*/parts/*.safetensors"))
    call(project, *arguments, out["again"])
    assert files(project / command / "once") == files(project / command / "again")
    assert not list((project / "state").glob(f"{command}-*"))


def test_stability_counts_what_diverges_and_what_recovery_does(project):
    base = ("stability", "--study", "tiny", "--data", "data", "--gaussians", "g.safetensors", "-q", "--seeds", "2")
    hot = ("--set", "training.optimizer={name: adam, lr: 3.0}", "--set", "training.energy_bound=2000.0")
    hot = (*hot, "--set", "training.recovery={attempts: 1, lr: 0.001}")
    log = call(project, *base, "--method", "standard", "--method", "robust_jem", *hot, "--out", "s/hot.json")
    found = json.loads((project / "s/hot.json").read_text())
    assert found["robust_jem"]["runs"] == 2 == found["robust_jem"]["diverged"] == found["robust_jem"]["recovered"]
    assert found["robust_jem"]["recoveries"] == 2 and min(found["robust_jem"]["first"]) >= 1
    assert "| robust_jem | 2" in log and (project / "s/hot.md").read_text() in log
    log = call(project, *base, "--method", "standard", "--out", "s/cool.json")
    assert json.loads((project / "s/cool.json").read_text())["standard"] == {
        "runs": 2,
        "diverged": 0,
        "first": [],
        "recovered": 0,
        "recoveries": 0,
    }
    log = call(project, *base, "--set", "training.optimizer", "--out", "s/x.json", code=2)
    assert log == "advebm: --set training.optimizer: must be KEY=VALUE, such as training.optimizer.lr=0.1\n"
