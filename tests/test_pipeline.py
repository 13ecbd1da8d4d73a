"""The whole pipeline on the study tiny, in a copy of the project: DVC, its queue, its remotes and MLflow."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from glob import glob
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import yaml
import zc.lockfile
from filelock import FileLock

import advebm
from advebm.runtime import project

PROJECT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
# of a method, those for which its report waits: not `scores`, which is for the comparison
STAGES = ("train", "sample", "quality", "ood", "robustness", "autoattack", "fisher", "look", "applications")
TRACKED = (*(stage for stage in STAGES if stage != "look"), "calibration", "landscape", "neighbours", "interpolation")


def shell(folder, *command, fails=False, **more):
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_", "ADVEBM_", "GIT_"))}
    environment = {**keep, "PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1", **more}
    done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True, env=environment)
    assert (done.returncode != 0) == fails, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def clone(folder, study, edit=lambda folder: None):
    """Copy the working tree, select the study, apply `edit` and commit."""
    for name in ("dvc.yaml", "params.yaml", "stages", "pkg", "pyproject.toml", ".gitignore", ".dvcignore", ".dvc/config"):
        source, target = PROJECT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        ignore = shutil.ignore_patterns("__pycache__", "dvc.lock", "*.egg-info")
        shutil.copytree(source, target, ignore=ignore) if source.is_dir() else shutil.copy(source, target)
    params = folder / "params.yaml"
    params.write_text(only(study, params.read_text()).replace("study: digits", f"study: {study}", 1))
    edit(folder)
    for command in ("init -q", "config user.name a", "config user.email a@example.org", "add -A", "commit -qm start"):
        shell(folder, "git", *command.split())
    return folder


def only(study, params):
    """params.yaml without other studies than tiny, this one and those it is like: DVC reads it once for each dvc.yaml."""
    content, kept = yaml.safe_load(params), set()
    for name in ("tiny", study):
        while name in content:
            kept.add(name)
            name = content[name].get("like")
    blocks = re.split(r"(?m)^(?=\S+:)", params)
    names = [block.split(":")[0] for block in blocks]
    others = {name for name in names if isinstance(content.get(name), dict) and "like" in content[name]} - kept
    return "".join(block for name, block in zip(names, blocks, strict=True) if name not in others)


def mark(folder):
    """Make measurements print a line that only this folder's code prints."""
    measure = folder / "pkg/advebm/commands/measure.py"
    measure.write_text(measure.read_text().replace('print(f"wrote ', 'print("the copy\'s own code", __file__, f"wrote '))


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A clone with the study tiny and a mark."""
    return clone(tmp_path_factory.mktemp("clone"), "tiny", mark)


def locks(folder):
    """The content of each lock file of the pipeline."""
    files = glob("**/dvc.lock", root_dir=folder, recursive=True)
    return {file: yaml.safe_load((folder / file).read_text()) for file in files}


def stages_run(log):
    return [line.split("'")[1].split(":")[-1] for line in log.splitlines() if line.startswith("Running stage")]


def mlflow_runs(copy):
    code = """
import json
from advebm.runtime import tracking

client = tracking.client()
print(json.dumps([{
    "id": run.info.run_id, "name": run.info.run_name, "status": run.info.status,
    "end": run.info.end_time, "tags": run.data.tags, "params": run.data.params, "metrics": run.data.metrics,
    "artifacts": [file.path for file in client.list_artifacts(run.info.run_id)],
    "data": [(given.dataset.name, given.dataset.digest) for given in run.inputs.dataset_inputs],
    "models": [client.get_logged_model(model.model_id).status for model in run.outputs.model_outputs],
    "history": [metric.step for metric in client.get_metric_history(run.info.run_id, "train/loss")],
} for run in client.search_runs([e.experiment_id for e in client.search_experiments()])]))
"""
    return json.loads(shell(copy, sys.executable, "-c", code).splitlines()[-1])


def test_the_pipeline(copy):
    log = shell(copy, "dvc", "repro")
    ran = stages_run(log)
    assert set(ran) == {
        "check", "sources", "prepare", "gaussians", "judge", "warm", "baselines", "report",
        *(f"{stage}@robust_jem" for stage in STAGES),
    }  # fmt: skip
    assert f"the copy's own code {copy}/pkg" in log
    report = json.loads((copy / "report.json").read_text())
    assert set(report["quality"]) == {"combined", "sgld", "replay_buffer", "baselines"}
    assert set(report["ood"]) == {"photographs", "uniform"} and "published" in (copy / "report.md").read_text()
    models = copy / "models/tiny/robust_jem"
    last = {file.stem.rpartition("_")[0] for file in models.glob("grids/*.png")}
    pictures = [*(copy / "results/tiny/robust_jem").rglob("*.png"), models / "curves.png", *last]
    assert (copy / "report.html").read_text().count("<img ") == len(pictures) > 8
    assert stages_run(shell(copy, "dvc", "repro")) == ["sources"]

    by_method = {run["tags"]["method"]: run for run in mlflow_runs(copy)}
    assert set(by_method) == {"judge", "warm", "robust_jem"}
    run = by_method["robust_jem"]
    assert run["status"] == "FINISHED" and run["name"] == "robust_jem"
    commit = shell(copy, "git", "rev-parse", "HEAD").strip()
    tags = run["tags"]
    assert (tags["study"], tags["git.commit"], tags["dvc.experiment"]) == ("tiny", commit, "workspace")
    assert len(tags["data.sha256"]) == len(tags["checkpoint.sha256"]) == 64
    assert {tag for tag in tags if tag.startswith("stage.")} == {f"stage.{stage}" for stage in TRACKED}
    params = yaml.safe_load((copy / "results/study/tiny/params.yaml").read_text())
    assert run["params"]["attack.eps"] == str(params["tiny"]["models"]["robust_jem"]["attack"]["eps"])
    assert run["params"]["training.optimizer.lr"] == "0.002" and run["params"]["seed"] == "0"
    assert (
        run["params"]["sample.sampling.sgld.chain.steps"] and run["params"]["robustness.curve.attack.steps"] and run["end"]
    )
    assert run["history"] == [5, 10]
    assert run["metrics"]["quality/sgld/fid"] == report["quality"]["sgld"]["fid"]
    assert run["metrics"]["robustness/clean"] == report["robustness"]["clean"]
    assert run["metrics"]["ood/uniform/auc_worst"] == report["ood"]["uniform"]["auc_worst"]
    assert {"curves.png", "grids", "samples", "ood"} <= set(run["artifacts"]) and run["models"] == ["READY"]
    outs = [out for lock in locks(copy).values() for stage in lock["stages"].values() for out in stage.get("outs", ())]
    read = ("data/tiny", "models/tiny/robust_jem", "models/tiny/judge", "models/tiny/gaussians.safetensors")
    assert all(tags[f"dvc.{out['path']}"] == out["md5"] for out in outs if out["path"] in read)
    assert run["data"] == [["tiny", tags["dvc.data/tiny"]]]
    promoted = shell(copy, sys.executable, "-m", "advebm", "promote", "--study", "tiny", PYTHONPATH="pkg")
    assert promoted.startswith("tiny: the champion is version 1 (robust_jem) ")


def test_the_pipeline_again_gives_the_same_bytes(copy, tmp_path):
    again = clone(tmp_path / "again", "tiny", mark)
    shell(again, "dvc", "repro", ADVEBM_TRACKING="off")
    assert locks(again) == locks(copy) and len(locks(copy)) == 10
    assert not (again / "mlflow.db").exists() and not list((again / "state").glob("*-*"))


def test_what_is_altered_is_made_again(copy):
    files = [copy / f"{name}" for name in ("data/tiny/train.npz", "models/tiny/robust_jem/model.safetensors")]
    files.append(copy / "results/tiny/robust_jem/ood.json")
    before = [file.read_bytes() for file in files]
    for file, content in zip(files, before, strict=True):
        file.chmod(0o644)
        file.write_bytes(content[:-3] + b"???")
    shell(copy, "dvc", "repro")
    assert [file.read_bytes() for file in files] == before


def test_one_number_reruns_only_what_depends_on_it(copy):
    params = copy / "params.yaml"
    before = params.read_text()
    log = shell(copy, "dvc", "exp", "run", "-S", "tiny.ood.attack.steps=4")
    assert set(stages_run(log)) == {"check", "sources", "ood@robust_jem", "report"}
    short = ("--only-changed", "--drop", ".*/|params.yaml")  # as README.md has it
    columns = shell(copy, "dvc", "exp", "show", "--csv", *short).splitlines()[0].split(",")
    named = [name for name in columns if name[0].islower() and name not in ("rev", "typ", "parent")]
    assert named == [*json.loads((copy / "report.metrics.json").read_text()), "tiny.ood.attack.steps"]
    content = yaml.safe_load(params.read_text())
    content["tiny"]["recipes"]["sgld"]["chain"]["steps"] += 1
    params.write_text(yaml.safe_dump(content, sort_keys=False))
    ran = set(stages_run(shell(copy, "dvc", "repro")))
    assert ran == {
        "check",
        "sources",
        *(f"{stage}@robust_jem" for stage in ("sample", "quality", "look", "applications")),
        "report",
    }
    params.write_text(before)
    assert set(stages_run(shell(copy, "dvc", "repro"))) <= {"check", "sources"}, (
        "the earlier results must come from the cache"
    )


def test_a_run_holds_one_specification_of_each_stage(copy):
    runs = [run for run in mlflow_runs(copy) if run["tags"]["method"] == "robust_jem"]
    assert len({run["tags"]["checkpoint.sha256"] for run in runs}) == 1
    first, *others = sorted(runs, key=lambda run: run["end"])
    assert first["history"] and others, "an experiment that changes a stage's spec must have a run of its own"
    trained = {key: value for key, value in first["params"].items() if key.split(".")[0] not in TRACKED}
    assert all(trained.items() <= run["params"].items() and not run["history"] for run in others)
    assert {run["params"].get("ood.attack.steps") for run in runs} >= {"3", "4"}
    assert (
        first["metrics"]["ood/uniform/auc_worst"]
        == json.loads((copy / "report.json").read_text())["ood"]["uniform"]["auc_worst"]
    )


def test_the_queue_runs_the_copys_code_and_loses_nothing(copy):
    before = {run["id"] for run in mlflow_runs(copy)}
    target = "stages/quality/dvc.yaml:quality@at"
    shell(copy, "dvc", "exp", "run", "--queue", "--name", "pair", "-S", "method=at", "-S", "seed=1,2", target)
    shell(copy, "dvc", "queue", "start", "-j", "2")
    shell(copy, "timeout", "300", "bash", "-c", "while dvc queue status | grep -qE 'Queued|Running'; do sleep 5; done")
    status = shell(copy, "dvc", "queue", "status")
    assert status.count("Success") == 2, status
    runs = [run for run in mlflow_runs(copy) if run["id"] not in before]
    made = {(run["tags"]["method"], run["params"]["seed"]) for run in runs}
    assert made == {(name, seed) for name in ("at", "warm") for seed in ("1", "2")}  # each seed has its own warm start
    runs = [run for run in runs if run["tags"]["method"] == "at"]
    shown = shell(copy, "dvc", "exp", "list", "--name-only")
    for run in runs:
        assert run["status"] == "FINISHED" and run["tags"]["dvc.experiment"] in shown
        assert run["tags"]["stage.quality"] == "done" and run["metrics"]["quality/targeted/fid"] >= 0
        assert run["artifacts"] and run["history"] == [5, 10]
        log = shell(copy, "dvc", "queue", "logs", run["tags"]["dvc.experiment"])
        assert "the copy's own code" in log and ".dvc/tmp/exps" in log


def test_a_sweep_is_drawn_of_the_queue(copy):
    shown = shell(copy, BIN / "advebm", "sweep", "pair", "--metric", "fid", "--metric", "recall")
    assert "| targeted |" in shown and " ± " in shown and "| 2 " in shown, "the table must show a mean over seeds"
    files = {file.name for file in (copy / "results/sweeps").iterdir()}
    assert files == {"pair.md", "pair.png", "pair.pdf", "pair_samples.png"}
    log = shell(copy, BIN / "advebm", "sweep", "pair", "--metric", "protocol", fails=True)
    assert "advebm: no number 'protocol' in quality.json; there are fid, fid_se" in log
    assert "Traceback" not in log
    log = shell(copy, BIN / "advebm", "sweep", "pear", fails=True)
    assert "advebm: no experiments pear-1, ...; `dvc exp run --queue --name pear -S ...` queues them" in log
    lock = zc.lockfile.LockFile(copy / ".dvc/tmp/lock")
    log = shell(copy, BIN / "advebm", "sweep", "pair", fails=True)
    lock.close()
    assert log.endswith("advebm: another DVC process is running in this folder; wait for it, or stop it\n")


def test_jobs_run_what_is_queued_and_resume(copy):
    shell(copy, "git", "add", "-A")
    shell(copy, "git", "commit", "-qm", "before", "--allow-empty")
    shell(copy, "dvc", "exp", "run", "--queue", "--name", "few", "-S", "tiny.fisher.n=10")
    lock = project.lock(copy / "state/jobs/few")
    lock.parent.mkdir(exist_ok=True)
    with FileLock(lock):
        log = shell(copy, BIN / "advebm", "job", "few", fails=True)
    assert log == "advebm: state/jobs/few: another process is writing it; wait for it, or stop it\n"

    outputs, log = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}, ""
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(["bash", "stages/job.sh", "few"], cwd=copy, text=True, env=environment, **outputs) as job:
        while "fisher@robust_jem':" not in log and job.poll() is None:
            log += job.stdout.readline()
        job.terminate()
        log += job.stdout.read()
    assert job.returncode == 143 and log.endswith("advebm: stopped by SIGTERM; run the same command to resume\n"), log
    assert not list((copy / ".dvc/tmp/exps/jobs").iterdir())
    log = shell(copy, BIN / "advebm", "launch", "bash stages/job.sh", "few", "fwe", fails=True)
    assert log == "advebm: fwe: no such experiment is queued; there are few\n"
    log = shell(copy, BIN / "advebm", "launch", "bash stages/job.sh", "few")
    assert log.startswith("few: bash stages/job.sh few\n") and "few is complete: dvc exp show" in log
    assert "fisher@robust_jem" in (ran := stages_run(log)) and not {"check", "train@robust_jem"} & set(ran)
    log = shell(copy, BIN / "advebm", "launch", "bash stages/job.sh", fails=True)
    assert log == "advebm: nothing is queued; `dvc exp run --queue --name NAME -S ...` queues experiments\n"


def test_an_experiment_is_taken_over_though_other_methods_have_never_run(copy):
    fisher = copy / "results/tiny/robust_jem/fisher.json"
    before = fisher.read_bytes()
    log = shell(copy, BIN / "advebm", "adopt", "few")
    assert log == "few is in this tree: see git diff; back: git checkout . && dvc checkout --allow-missing\n"
    assert json.loads(fisher.read_bytes())["n"] == 10 != json.loads(before)["n"]
    assert yaml.safe_load((copy / "params.yaml").read_text())["tiny"]["fisher"]["n"] == 10
    shell(copy, "git", "checkout", ".")
    shell(copy, "dvc", "checkout", "--allow-missing")
    assert fisher.read_bytes() == before
    log = shell(copy, BIN / "advebm", "adopt", "fewer", fails=True)
    assert log.endswith("'fewer' does not appear to be an experiment commit. `dvc exp show` lists them\n")


def test_the_summary_gathers_the_tracked_runs(copy):
    shown = shell(copy, BIN / "advebm", "summary", "--study", "tiny", "--metric", "quality/")
    assert "| at " in shown and "quality/targeted/fid" in shown and "| robust_jem " in shown
    (copy / "page.md").write_text("<!-- headline tiny -->\n<!-- end headline -->\n")
    shown = shell(copy, BIN / "advebm", "headline", "page.md", "--study", "tiny", "--method", "at", "--method", "jem")
    row = next(line for line in (copy / "page.md").read_text().splitlines() if line.startswith("| at "))
    assert row in shown and "| targeted " in row and "not run" in shown
    (copy / "page.md").write_text("<!-- field tiny -->\n<!-- end field -->\n")
    shown = shell(copy, BIN / "advebm", "headline", "page.md", "--study", "tiny", "--method", "at")
    (row,) = ([cell.strip() for cell in line.split("|")] for line in shown.splitlines() if line.startswith("| at "))
    assert "0 of " in row[-3] and float(row[-4].split()[0]) > 0, "no training diverged; each took its time"


def test_replaced_source_files_are_noticed(tmp_path):
    def mine(folder):
        params = folder / "params.yaml"
        params.write_text(params.read_text().replace("source: digits", "source: npz:mine.npz"))

    def put(folder, level):
        folder.mkdir(parents=True, exist_ok=True)
        x = np.random.default_rng(level).integers(0, 256, (1797, 8, 8), dtype=np.uint8)
        np.savez(folder / "mine.npz", x=x, y=np.arange(1797) % 10)

    project, another = clone(tmp_path / "project", "tiny", mine), tmp_path / "another"
    put(project / "data" / "raw", 1)
    shell(project, "dvc", "repro", "prepare")
    assert stages_run(shell(project, "dvc", "repro", "prepare")) == ["sources"]
    put(project / "data" / "raw", 2)
    assert stages_run(shell(project, "dvc", "repro", "prepare")) == ["sources", "prepare"]
    put(another, 2)
    assert stages_run(shell(project, "dvc", "repro", "prepare", ADVEBM_DATA=another)) == ["sources"]
    put(another, 3)
    assert stages_run(shell(project, "dvc", "repro", "prepare", ADVEBM_DATA=another)) == ["sources", "prepare"]
    (another / "mine.npz").unlink()
    log = shell(project, "dvc", "repro", "prepare", fails=True, ADVEBM_DATA=another)
    assert f"advebm: {another}/mine.npz: not there, but npz:mine.npz is a source of the study" in log


def test_a_mistake_ends_with_our_line(copy):
    log = shell(copy, "dvc", "exp", "run", "-S", "method=robust_gem", fails=True)
    assert "advebm: params.yaml: no method 'robust_gem' in tiny (did you mean robust_jem?)" in log
    assert "Traceback" not in log and not stages_run(log)[1:]
    shell(copy, "git", "checkout", "params.yaml")
    params = copy / "params.yaml"
    content = yaml.safe_load(params.read_text())
    content["tiny"]["training"]["batch"] = "big"
    params.write_text(yaml.safe_dump(content, sort_keys=False))
    log = shell(copy, "dvc", "repro", fails=True)
    assert "advebm: params.yaml: tiny.training.batch: 'big' is not of type 'integer'" in log
    shell(copy, "git", "checkout", "params.yaml")


def test_a_clone_gets_the_results_and_the_model_by_http(copy, tmp_path):
    """What docs/sharing.md says: a folder is a remote, which any web server serves; models have versions."""
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda self, *words: None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=tmp_path / "store"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for command in (
        f"dvc remote add --local store {tmp_path}/store",
        f"dvc remote add -d web http://127.0.0.1:{server.server_port}",
        "dvc remote modify web verify true",
        "dvc push -r store",
        "git add -A",
        "git commit -qm remote",
        "git tag -a tiny/robust_jem@v1.0.0 -m .",
        "git tag -a tiny/gaussians@v1.0.0 -m .",
        f"git clone -q . {tmp_path}/clone",
    ):
        shell(copy, *command.split())
    for name, file in (("robust_jem", "model"), ("gaussians", "gaussians")):
        shell(tmp_path, "dvc", "artifacts", "get", "clone", f"tiny/{name}", "--out", f"got/{file}.safetensors")
    images = advebm.load(tmp_path / "got").sample(2)

    project = tmp_path / "clone"
    shell(project, "dvc", "pull", "--with-deps", "report")
    assert (project / "report.html").read_bytes() == (copy / "report.html").read_bytes()
    assert advebm.load(project / "models/tiny/robust_jem").sample(2).equal(images)
    assert stages_run(shell(project, "dvc", "repro", ADVEBM_TRACKING="off")) == ["sources"]
    shell(project, BIN / "advebm", "card", "robust_jem", "--study", "tiny", "--out", "card")
    shell(project / "card", "sha256sum", "--check", "--strict", "SHA256SUMS")
    server.shutdown()
    server.server_close()
