"""What MLflow gets from stages that are killed, damaged, repeated or without an answer; on real stores and servers."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow import MlflowClient

from advebm.runtime import outbox, tracking
from advebm.runtime.signals import Stopped

CREATED = """
import os, signal, sqlite3
from pathlib import Path
from advebm.runtime import tracking

count, connect = 0, sqlite3.dbapi2.connect

def killed(statement):
    global count
    count += "CREATE TABLE" in statement
    if count == 5:
        os.kill(os.getpid(), signal.SIGKILL)

def connected(*arguments, **options):
    made = connect(*arguments, **options)
    made.set_trace_callback(killed)
    return made

sqlite3.dbapi2.connect = sqlite3.connect = connected
tracking.client()
"""


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A folder whose stages put their records into the outbox, and the store that `sync` then sends them to."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("ADVEBM_TRACKING", "outbox")
    return tmp_path


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """An empty store, made by a process after another was killed while it made it."""
    folder = tmp_path_factory.mktemp("empty")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(folder))
        done = subprocess.run(
            [sys.executable, "-c", CREATED], env={**os.environ, "PYTHONPATH": "pkg"}, stderr=subprocess.PIPE
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert not (folder / "mlflow.db").exists() and (folder / "mlflow.db.part").exists()
        tracking.client()
    return folder / "mlflow.db"


def runs():
    """(status, params, steps of the loss) of each run."""
    client = tracking.client()
    found = client.search_runs([e.experiment_id for e in client.search_experiments()], order_by=["attributes.start_time"])
    history = [[m.step for m in client.get_metric_history(run.info.run_id, "train/loss")] for run in found]
    return [(run.info.status, run.data.params, steps) for run, steps in zip(found, history, strict=True)]


def train(seed=0, *, steps=(1, 2), uid=None, killed=False, picture=None):
    """Log a training; returns its run's uid."""
    with suppress(KeyboardInterrupt), tracking.run("train", "tiny", "at", params={"seed": seed}, uid=uid) as run:
        for step in steps:
            run.metrics({"train/loss": step}, step)
        if picture:
            run.artifact(picture, "grids")
        if killed:
            raise KeyboardInterrupt
        run.tags(checkpoint__sha256=f"model {seed}")
    return run.uid


def measure(*, killed=False, **spec):
    params = {f"fisher.{key}": value for key, value in spec.items()}
    about = {"params": params, "checkpoint": "model 0", "spec": spec}
    with suppress(KeyboardInterrupt), tracking.run("fisher", "tiny", "at", **about) as run:
        if killed:
            raise KeyboardInterrupt
        run.metrics({"fisher/mean": 1.0})


def test_a_store_whose_creation_was_killed_is_created_anew(store, empty):
    shutil.copy(empty, store)
    assert runs() == [] and not list(empty.parent.glob("*.part*"))


def test_a_model_is_one_run_that_stays_finished(store, empty, capsys):
    shutil.copy(empty, store)
    train(killed=True)  # never resumed: its state was not saved yet
    train(picture=Path(__file__))
    assert "was interrupted and is superseded; its run ends as KILLED" in capsys.readouterr().err
    measure(n=3, killed=True)
    assert tracking.sync() == 3
    assert [status for status, *_ in runs()] == ["KILLED", "FINISHED"]
    measure(n=3)
    tracking.sync()
    again = train(killed=True)  # the same once more; its run is opened before its model is known
    tracking.sync()
    assert [status for status, *_ in runs()] == ["KILLED", "FINISHED", "KILLED"]
    train(uid=again, steps=(3,))
    tracking.sync()
    finished = ("FINISHED", {"seed": "0", "fisher.n": "3"}, [1, 2])
    assert runs()[1:] == [finished] and not list(outbox.root().iterdir())
    train(seed=1)
    measure(n=4)  # another measurement of the model: MLflow cannot change a param
    tracking.sync()
    assert [status for status, *_ in runs()] == ["KILLED", *3 * ["FINISHED"]]


def test_runs_of_all_pages_are_found(store, empty, monkeypatch):
    shutil.copy(empty, store)
    for seed in range(3):
        train(seed=seed)
    tracking.sync()
    search = MlflowClient.search_runs
    monkeypatch.setattr(MlflowClient, "search_runs", lambda *given, **more: search(*given, **{"max_results": 2, **more}))
    assert [run.params["seed"] for run in tracking.runs("tiny")] == ["2", "1", "0"]


def test_damaged_records_hold_up_nothing(store, empty, monkeypatch, capsys):
    shutil.copy(empty, store)
    uid = train(steps=(1, 2), killed=True)
    other = train(seed=1, killed=True)
    tracking.sync()
    box = outbox.root() / uid
    (box / "sent.json").write_bytes((box / "sent.json").read_bytes()[:-3])
    train(uid=uid, steps=(1, 2, 3))
    journal = outbox.root() / other / "events.jsonl"
    data = bytearray(journal.read_bytes())
    data[len(data) // 2] ^= 1
    journal.write_bytes(data)
    assert tracking.sync() == 1 and f"{journal.parent}: its records for MLflow are damaged" in capsys.readouterr().err
    train(uid=other, steps=(3,), seed=1)
    assert tracking.sync() == 1
    assert [(status, steps) for status, _, steps in runs()] == [("FINISHED", [1, 2, 3]), ("FINISHED", [1, 2, 3])]
    resumed = train(killed=True)
    tracking.sync()
    shutil.copy(empty, store / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}/other.db")
    train(uid=resumed, steps=(3,))
    tracking.sync()
    assert [(status, steps) for status, _, steps in runs()] == [("FINISHED", [1, 2, 3])], "another store gets everything"


@pytest.mark.parametrize("content", ["{", "[]", '{"1-2": null}'])
def test_a_damaged_count_of_what_was_received_is_named(store, capsys, content):
    (store / "state").mkdir()
    (count := store / "state/received.json").write_text(content)
    assert not outbox.received("1-2", b"a line\n") and not count.exists()
    assert capsys.readouterr().err.startswith(f"advebm: {count}: is damaged and was removed")


@pytest.mark.parametrize("uri", ["nonsense", "ftp://nowhere", "http://"])
def test_a_store_that_is_none_is_named(store, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    train()
    begun = time.monotonic()
    with pytest.raises(ConnectionError, match=f"MLflow: MLFLOW_TRACKING_URI {uri}: "):
        tracking.sync()
    assert time.monotonic() - begun < 5


@contextmanager
def server(seconds):
    """A server on this machine that answers each request, with an error, after some time."""
    over = threading.Event()

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self):
            over.wait(seconds)
            with suppress(OSError):
                self.send_error(404)

        do_POST = do_GET

        def log_message(self, *_): ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as made:
        threading.Thread(target=made.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{made.server_port}"
        finally:
            over.set()
            made.shutdown()


STAGE = """
import sys
from advebm.runtime import outbox, signals, tracking

signals.end_with(sys.argv[0])
with tracking.run("fisher", "tiny", "at", params={}, checkpoint="a model", spec=sys.argv[1]) as run:
    run.metrics({"fisher/mean": 1.0})
print(signals.runner, *(file.read_text() for file in outbox.root().parent.glob("locks/sender-*")), *outbox.root().iterdir())
"""

PIPELINE = """
import os, subprocess, sys

print(os.getpid(), flush=True)
for name in "ab":
    subprocess.run(["sh", "-c", '"$0" stage.py "$1"; exit $?', sys.executable, name], check=True)
"""


def test_stages_of_one_process_share_a_sender(store, empty):
    """Each ends when its records were sent; the sender ends with the process that runs the stages."""
    shutil.copy(empty, store)
    (store / "stage.py").write_text(STAGE)
    environment = {**os.environ, "ADVEBM_TRACKING": "on", "PYTHONPATH": str(Path("pkg").resolve())}
    options = {"cwd": store, "env": environment, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-"], input=PIPELINE, **options)
    assert done.returncode == 0 and not done.stderr, done.stderr
    pid, first, second = done.stdout.splitlines()
    assert first == second and first.split()[0] == pid, "no box is left, and the address is the same"
    assert [status for status, *_ in runs()] == 2 * ["FINISHED"]
    until = time.monotonic() + 20
    while Path(first.split()[1]).parent.exists() and time.monotonic() < until:
        time.sleep(0.1)
    assert not Path(first.split()[1]).parent.exists() and not list((store / "state/locks").glob("sender-*"))


@pytest.mark.parametrize("error", [None, Stopped(signal.SIGTERM)], ids=["done", "stopped"])
def test_a_server_that_hangs_holds_up_no_stage(store, monkeypatch, capsys, error):
    """A request takes MLflow 10 s to give up."""
    monkeypatch.setenv("ADVEBM_TRACKING", "on")
    monkeypatch.setattr(tracking, "DEADLINE", 0.2)
    monkeypatch.setattr(tracking, "HURRY", 0.2)
    with server(100) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.replace("//", "//me:secret@"))
        begun = time.monotonic()
        with suppress(Stopped), tracking.run("train", "tiny", "at", params={}) as run:
            for step in range(100):
                run.metrics({"train/loss": step}, step)
            if error:
                raise error
        assert time.monotonic() - begun < 8
    told = f"advebm: MLflow: MLFLOW_TRACKING_URI {uri}: did not receive all in time; `advebm sync` sends what is left in "
    assert capsys.readouterr().err == f"{told}{outbox.root()}\n"
    assert len(list(outbox.boxes())) == 1
