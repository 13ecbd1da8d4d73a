"""What MLflow gets from stages that are killed."""

import os
import signal
import subprocess
import sys

import pytest

from advebm.runtime import tracking

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


def test_a_store_whose_creation_was_killed_is_created_anew(empty):
    assert empty.stat().st_size and not list(empty.parent.glob("*.part*"))
