"""Machines and shells that are unlike the developers': a command works there, or says in a line what it needs."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KEPT = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_", "ADVEBM_", "RANK"))}
ENVIRONMENT = KEPT | {"PYTHONPATH": str(ROOT / "pkg"), "OMP_NUM_THREADS": "1"}


def shell(command, folder=ROOT, **more):
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, env=ENVIRONMENT | more)
    return done.returncode, done.stdout, done.stderr


PYTHON = shlex.quote(sys.executable)
ADVEBM = f"{PYTHON} -m advebm"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_closed_streams_are_no_reason_to_fail(tmp_path, closed):
    """The progress bar is written to standard error, the last line to standard output."""
    prepare = f"{ADVEBM} prepare --study tiny --out {tmp_path}/data"
    code, out, err = shell(f"{prepare} {closed}")
    assert code == 0 and (tmp_path / "data/about.json").is_file(), out + err
    assert ("wrote" in out) == (closed[1:] == ">&-") and ("it/s" in err) == (closed == ">&-")


def test_mistakes_have_their_exit_code_with_closed_streams():
    assert shell(f"{ADVEBM} check nothing 2>&-")[0] == 2


def test_a_rank_without_the_rest_is_told(tmp_path):
    """Other launchers set RANK alone."""
    line = f"{ADVEBM} train at --study tiny --data {tmp_path} --out {tmp_path}/o"
    code, _, err = shell(line, RANK="0", WORLD_SIZE="3")
    missing = "LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT"
    assert code == 2 and err.startswith(f"advebm: RANK is set, but {missing} not: start the processes by torchrun, ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(("failing", "code"), [(0, 2), (1, 2), (2, 1)])
def test_a_failing_process_among_three_is_told(tmp_path, failing, code):
    """The launcher ends the others by SIGTERM, which is not told."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys, time\nfrom advebm import cli\n"
        f"def app(**_):\n    if os.environ['RANK'] != '{failing}':\n        time.sleep(60)\n"
        f"    raise {'ValueError' if code == 2 else 'OSError'}('the reason of ' + os.environ['RANK'])\n"
        "cli.WAIT = 1\ncli.run(app, 'train')\n"
    )
    launch = f"import sys; from advebm.runtime import ranks; sys.exit(ranks.launch(3, ['{script}']))"
    found, _, err = shell(f'{PYTHON} -c "{launch}"')
    assert found == code and err == f"advebm: the reason of {failing}\n"


def test_a_mistake_that_all_processes_meet_is_told_once(tmp_path):
    """Even where the leader meets it last."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, time\nfrom advebm import cli\n"
        "def app(**_):\n    time.sleep(1.5 * (os.environ['RANK'] == '0'))\n    raise ValueError('the mistake')\n"
        "cli.run(app, 'train')\n"
    )
    launch = f"import sys; from advebm.runtime import ranks; sys.exit(ranks.launch(3, ['{script}']))"
    assert shell(f'{PYTHON} -c "{launch}"')[::2] == (2, "advebm: the mistake\n")


@pytest.fixture
def bare(tmp_path):
    """A tree with the stages, and a Python without packages."""
    tree = tmp_path / "tree"
    shutil.copytree(ROOT / "stages", tree / "stages")
    (tree / "pkg").symlink_to(ROOT / "pkg")
    (tree / "params.yaml").symlink_to(ROOT / "params.yaml")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    return tree, f"{tmp_path}/bare/bin/python3 stages/run.py check at --study tiny"


def test_a_stage_finds_the_environment_of_its_tree(bare):
    """`.venv/bin/dvc repro` runs `python3`, which is another one unless the environment is active."""
    tree, line = bare
    (tree / ".venv").symlink_to(sys.prefix)
    assert shell(line, tree) == (0, "params.yaml: tiny is valid\n", "")


def test_a_stage_of_a_queued_experiment_finds_the_environment_of_the_project(bare, tmp_path):
    tree, line = bare
    (tmp_path / ".venv").symlink_to(sys.prefix)
    assert shell(line, tree, DVC_ROOT=str(tmp_path))[0] == 0


def test_a_stage_without_environment_says_what_to_do(bare):
    tree, line = bare
    code, _, err = shell(line, tree)
    assert code == 2 and "lacks the packages: run `make install`, or activate their environment\n" in err
    assert err.count("\n") == 1
