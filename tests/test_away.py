"""Run a study on a machine without DVC, MLflow and git, and receive its results in the project."""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from importlib import metadata
from pathlib import Path

import pytest
from filelock import FileLock
from typer.testing import CliRunner

from advebm import cli, config
from advebm.away import home as receive
from advebm.away import packs, pieces, pipeline
from advebm.commands import away
from advebm.runtime import outbox, project, tracking
from test_pipeline import PROJECT, STAGES, clone, mlflow_runs, shell, stages_run

METHODS = ["robust_jem", "at"]
ABSENT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


def rent(folder, *more):
    """The environment of a machine with this Python, without git or DVC on its PATH, where DVC, MLflow and normflows cannot
    be imported."""
    for name in ("bin", "absent"):
        (folder / name).mkdir(parents=True)
    python = folder / "bin/python3"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (folder / "absent/sitecustomize.py").write_text(ABSENT.format(names=("dvc", "mlflow", "normflows", *more)))
    return {"PATH": str(folder / "bin"), "PYTHONPATH": str(folder / "absent"), "OMP_NUM_THREADS": "1"}


def script(folder, machine, *arguments):
    command = ["/bin/bash", folder / "stages/away.sh", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder.parent, env=machine, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def rented(tmp_path_factory):
    """A copy of the project outside any repository, after `away` has run two methods of tiny: (its folder, the pack after
    the second piece, the pack at the end, the log of each piece)."""
    folder = clone(tmp_path_factory.mktemp("rented") / "project", "digits")
    for name in (".git", ".dvc"):
        shutil.rmtree(folder / name)
    machine, codes, logs = rent(folder.parent / "machine"), [], []
    while not codes or codes[-1] == 75:
        code, log = script(folder, machine, "tiny", 600 if len(codes) > 1 else 10, *METHODS)
        codes.append(code)
        logs.append(log)
        if len(codes) == 2:
            shutil.copytree(folder / "away/tiny", folder.parent / "first")
    assert codes == [75, 75, 0], logs[-1][-3000:]
    return folder, sorted((folder.parent / "first").iterdir()), sorted((folder / "away/tiny").iterdir()), logs


@pytest.fixture
def there(rented, monkeypatch):
    """The names of its stages in order, and a function that lists those that must run again."""
    monkeypatch.chdir(rented[0])
    stages = list(pipeline.ordered(pipeline.read("tiny", METHODS[0], METHODS, 0), pieces.order(METHODS)))
    return [stage.name for stage in stages], lambda: [s.name for s in stages if not pipeline.record("tiny", s)]


def files(folder):
    """The files of a project with their content, except locks and those internal to git and DVC."""
    left_out = (".git", ".dvc", "__pycache__", "locks")
    return {
        file.relative_to(folder): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and not set(left_out) & set(file.parts) and not file.match(".*.lock")
    }


def test_a_piece_ends_and_the_next_goes_on_from_there(rented, there):
    logs, (names, again) = rented[3], there
    assert "the piece is over " in logs[0] and "run it again" in logs[0] and "tiny is complete" in logs[-1]
    started = [line.split()[1].rstrip(",") for log in logs for line in log.splitlines() if line.startswith("== ")]
    assert list(dict.fromkeys(started)) == names and len(started) <= len(names) + 2, "each runs once unless interrupted"
    assert again() == [] and not list((rented[0] / "state").glob("*-*")), "no state of a stage may remain"
    assert "Traceback" not in "".join(logs) and "mlflow.db" not in os.listdir(rented[0])


def test_the_most_telling_stages_come_first(there):
    names, _ = there
    assert names[:11] == [
        *("check", "sources", "prepare", "gaussians", "warm", "train@robust_jem", "sample@robust_jem"),
        *("judge", "baselines", "quality@robust_jem", "robustness@robust_jem"),
    ]
    assert names.index("robustness@at") < names.index("ood@robust_jem") < names.index("report") < names.index("ood@at")
    assert names[-1] == "compare" and len(names) == 9 + 2 * len(STAGES) + 2


def test_what_depends_on_a_change_runs_again(rented, there):
    _, again = there
    for file, stages in (
        ("pkg/advebm/evaluation/landscape.py", {"check"}),  # which then determines what else is outdated
        ("results/study/tiny/train/at.json", {"check", "train@at"}),
        ("results/tiny/at/fisher.json", {"fisher@at", "compare"}),
    ):
        path = rented[0] / file
        before = path.read_bytes()
        path.write_bytes(before + b"\n")
        assert set(again()) - {"compare"} == stages - {"compare"}
        path.write_bytes(before)
        assert again() == []


def test_home_takes_it_for_its_own(rented, tmp_path):
    project, first, last, _ = rented
    home = clone(tmp_path / "home", "tiny")
    for parts in (first, last):  # the second pack includes the first
        code = home / "pkg/advebm/reports/comparison.py"
        code.write_text(code.read_text() + "\n")
        log = shell(home, sys.executable, "-m", "advebm", "receive", *parts, PYTHONPATH=home / "pkg")
    assert "compare: will run here: results/study/tiny/compare.json differs" in log
    done = log.split("committed to DVC: ")[1].splitlines()[0].split(", ")
    measured = [f"{stage}@{method}" for stage in (*STAGES, "scores") for method in METHODS]
    assert set(done) == {"warm", "judge", "baselines", "report", *measured}
    targets = [f"stages/{name.split('@')[0]}/dvc.yaml:{name}" for name in measured]
    log = shell(home, "dvc", "repro", "report", *targets)
    assert stages_run(log) == ["sources"] and log.count("didn't change, skipping") == len(done) + 3
    there, here = files(project), files(home)
    outs = [path for path in there if path.parts[0] in ("models", "results") or path.parts[0].startswith("report.")]
    outs = [path for path in outs if path.parts[:2] != ("results", "study")]  # these record that the code differs
    assert len(outs) > 60 and all(there[path] == here[path] for path in outs)

    finished = [run for run in mlflow_runs(home) if run["status"] == "FINISHED"]
    assert sorted(run["tags"]["method"] for run in finished) == ["at", "judge", "robust_jem", "warm"]
    run = next(run for run in finished if run["tags"]["method"] == "robust_jem")
    report = json.loads((home / "report.json").read_text())
    assert run["metrics"]["quality/sgld/fid"] == report["quality"]["sgld"]["fid"]
    assert run["metrics"]["ood/uniform/auc_worst"] == report["ood"]["uniform"]["auc_worst"]
    assert run["history"] == [5, 10] and run["params"]["seed"] == "0" and run["tags"]["git.commit"] == "none"
    assert {"curves.png", "grids", "samples", "ood"} <= set(run["artifacts"]) and run["models"] == ["READY"]


def test_what_is_damaged_or_of_another_study_changes_nothing(rented, tmp_path):
    [part] = rented[2]
    home = clone(tmp_path / "home", "tiny")
    (home / "state").mkdir()
    before = files(home)
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "flipped.tar").write_bytes(data)
    (tmp_path / "cut.tar").write_bytes(data[: len(data) // 3])
    (tmp_path / "text.tar").write_text("no tar file")

    def refused(*parts):
        done = subprocess.run(
            [sys.executable, "-m", "advebm", "receive", *parts],
            cwd=home,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(home / "pkg")},
        )
        assert done.returncode == 2 and done.stderr.startswith("advebm: ") and done.stderr.count("\n") == 1, done.stderr
        assert files(home) == before
        return done.stderr

    for name in ("flipped", "cut", "text"):
        assert "is damaged" in refused(tmp_path / f"{name}.tar")
    assert "no such file" in refused(tmp_path / "none.tar")
    assert "of another packing" in refused(part, *rented[1])
    params = home / "params.yaml"
    params.write_text(params.read_text().replace("study: tiny", "study: digits", 1))
    before = files(home)
    assert "study is digits, but the files are of tiny" in refused(part)


@pytest.fixture
def home(rented, tmp_path, monkeypatch):
    """A project without DVC, as the current folder: (the folder, a function that reads its files except code)."""
    folder = tmp_path / "home"
    for name in ("dvc.yaml", "params.yaml", "stages", "pkg", "results/study/tiny"):
        source, target = rented[0] / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    params = folder / "params.yaml"
    params.write_text(params.read_text().replace("study: digits", "study: tiny", 1))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(tracking, "sync", lambda: 0)
    return folder, lambda: {path: data for path, data in files(folder).items() if path.parts[0] not in ("pkg", "stages")}


def test_some_of_several_parts_are_of_use(rented, home, tmp_path, monkeypatch, capsys):
    [part] = rented[2]
    (tmp_path / "whole").mkdir()
    manifest = packs.read([part], tmp_path / "whole").manifest
    monkeypatch.setattr(packs, "PART", 20 * tarfile.RECORDSIZE)
    with monkeypatch.context() as context:
        context.chdir(rented[0])
        parts = packs.write(tmp_path / "parts", manifest)
    large = [entry for entry in manifest["files"] if entry["size"] > packs.PART]
    assert len(parts) > 10 and large
    uids = {name for entry in manifest["files"] if (name := entry["path"]).endswith("/events.jsonl")}
    about = {uid: outbox.checkpoints((rented[0] / uid).read_bytes()) for uid in uids}
    for i in (1, 2, len(parts) // 2, len(parts) - 1, len(parts)):
        receive.receive(parts[:i])
        log = capsys.readouterr().out
        present = {uid for uid in uids if Path(uid).is_file()}
        came = {about[uid][1] for uid in present}
        assert all(about[uid][0] in {None, *came} for uid in present), "a measurement needs its training"
        assert ("is incomplete" in log) == ("not sent to MLflow" in log or i < len(parts)) == (i < len(parts))
    assert present == uids and not list(Path().rglob("*.part"))
    for entry in manifest["files"]:
        assert (home[0] / entry["path"]).read_bytes() == (rented[0] / entry["path"]).read_bytes()
    receive.receive([parts[-1]])
    assert "chunks" in capsys.readouterr().out, "the last part must hold a chunk"


def test_what_is_here_stays_where_it_is_not_done(rented, home, capsys):
    receive.receive(rented[2])
    [line] = [line for line in capsys.readouterr().out.splitlines() if "will run here" in line]
    assert line == "compare: will run here: models/tiny differs", "models/tiny also holds the class Gaussians"
    mine = {Path("results/tiny/at/fisher.json"): b"{}", Path("results/tiny/at/samples/mine.txt"): b"mine"}
    for path, data in mine.items():
        path.write_bytes(data)
    for method in METHODS:  # as `check` writes it when the code has changed
        with Path(f"results/study/tiny/fisher/{method}.json").open("a") as part:
            part.write("\n")
    Path("results/tiny/at/quality.json").unlink()
    before = home[1]()
    receive.receive(rented[2])
    log = capsys.readouterr().out
    assert "fisher@robust_jem: will run here: results/study/tiny/fisher/robust_jem.json differs\n" in log
    assert "fisher/at.json differs, results/tiny/at/fisher.json is kept as it was\n" in log
    after = home[1]()
    quality, other = Path("results/tiny/at/quality.json"), Path("results/tiny/at/samples/mine.txt")
    assert after.pop(quality) == (rented[0] / quality).read_bytes() and other not in after, "both outputs are replaced"
    assert after == {path: data for path, data in before.items() if path != other}


def test_what_a_stage_is_writing_is_not_touched(rented, home):
    before = home[1]()
    project.lock(Path("models/tiny/at")).parent.mkdir(parents=True, exist_ok=True)
    with FileLock(project.lock(Path("models/tiny/at"))):
        with pytest.raises(BlockingIOError, match="models/tiny/at: another process is writing it"):
            receive.receive(rented[2])
        assert home[1]() == before


def test_off_is_off(rented, home, monkeypatch):
    def sent():
        raise AssertionError

    monkeypatch.setattr(tracking, "sync", sent)
    monkeypatch.setenv("ADVEBM_TRACKING", "off")
    receive.receive(rented[2])
    assert not outbox.root().exists() and Path("models/tiny/at/model.safetensors").is_file()


def test_other_data_are_refused_and_rounding_is_not(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    there = {"images": "ab", "gaussians": [[1.0, -2.0]]}
    pack = packs.Pack({"study": "tiny", "home": there})
    monkeypatch.setattr(receive, "dvc", lambda *arguments: True)
    for here, message in (
        (there | {"images": "cd"}, "the images of data/tiny differ from those that these files were made with"),
        (there | {"gaussians": [[1.0, -2.01]]}, "the class Gaussians differ"),
    ):
        monkeypatch.setattr(receive, "identity", lambda study, here=here: here)
        with pytest.raises(ValueError, match=message):
            receive.prepared(pack)
    monkeypatch.setattr(receive, "identity", lambda study: there | {"gaussians": [[1.0, -2.0001]]})
    assert receive.prepared(pack) is False, "without DVC nothing is run"
    Path(".dvc").mkdir()
    assert receive.prepared(pack) is True
    monkeypatch.setattr(receive, "identity", lambda study: {})
    with pytest.raises(FileNotFoundError, match="are missing; nothing is unpacked"):
        receive.prepared(pack)
    monkeypatch.setattr(receive, "dvc", lambda *arguments: False)
    with pytest.raises(OSError, match="`dvc repro gaussians` failed, see above; nothing is unpacked"):
        receive.prepared(pack)


def test_what_is_missing_is_told_at_once(tmp_path):
    sys.path.insert(0, str(PROJECT / "stages"))
    from away import numbers

    assert numbers("0.29.2.dev1") == [0, 29, 2] > numbers("0.29") > numbers("0.4.0+cpu") and numbers("3") == [3]
    machine = rent(tmp_path, "pydantic")
    old = tmp_path / "absent/typer-0.12.5.dist-info/METADATA"
    old.parent.mkdir()
    old.write_text("Metadata-Version: 2.1\nName: typer\nVersion: 0.12.5\n")
    code, log = script(PROJECT, machine, "tiny", 60, "glow")
    assert code == 1 and log.startswith("advebm: not installed: normflows, pydantic, typer>=0.29; ")
    assert log.endswith("-m pip install 'normflows' 'pydantic' 'typer>=0.29'\n") and log.count("\n") == 1


def test_info_where_packages_are_missing(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    done = CliRunner().invoke(cli.app, ["info"])
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in done.output.splitlines()]
    assert done.exit_code == 0 and ["mlflow", "-"] in rows and ["advebm", "-"] in rows


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Small parts and files to fill them: (a function that packs the named files, a function that unpacks parts)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(packs, "PART", 2 * tarfile.RECORDSIZE)
    for name, size in {"a/large": 45_000, "a/small": 100, "b/equal": 100, "b/middle": 9_000}.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(hashlib.shake_256(name[0].encode()).digest(size))
    Path("b/equal").write_bytes(Path("a/small").read_bytes())

    def write(*names, **more):
        listed = [packs.file_entry(Path(name)) | more for name in names]
        return packs.write(Path("out"), {"study": "s", "stages": {}, "home": {}, "files": listed})

    def read(*parts):
        into = tmp_path / "into"
        shutil.rmtree(into, ignore_errors=True)
        into.mkdir()
        return {path: content.read_bytes() for path, content in packs.read(parts, into).contents.items()}

    return write, read


def test_parts_are_small_and_hold_everything(made):
    write, read = made
    names = ("b/middle", "a/large", "a/small", "b/equal")
    parts = write(*names)
    assert len(parts) > 3 and all(part.stat().st_size <= packs.PART for part in parts)
    content = {name: Path(name).read_bytes() for name in names}
    assert read(*parts) == read(*reversed(parts)) == content
    del content["a/large"]
    assert read(parts[0]) == content, "the first part must be usable alone"
    assert read(*parts[:-1]) == content and read(*parts[1:]) == {"a/large": Path("a/large").read_bytes()}
    shutil.rmtree("into")
    Path("into").mkdir()
    assert packs.read(parts[:-1], Path("into")).incomplete == {"a/large": "2 of 3 chunks"}
    before = [part.read_bytes() for part in parts]
    assert [part.read_bytes() for part in write(*names)] == before
    assert write("a/small") == sorted(Path("out").iterdir()), "the parts of an earlier pack must be removed"


@pytest.mark.parametrize("path", ["../x", "/tmp/x", "a/../../x", "a//x", "./x"])
def test_no_path_leads_out(made, path):
    write, read = made
    place = f"{Path.cwd()}/x" if path == "/tmp/x" else path  # a place where this test may write
    Path(place).write_bytes(Path("a/small").read_bytes())
    with pytest.raises(ValueError, match="leads out of the project's folder"):
        read(*write("a/small", path=place))


def test_every_byte_of_a_part_counts(made):
    """Flipped bytes and truncation, in any header, in the content and at the end."""
    write, read = made
    [part] = write("a/small", "b/middle")
    whole = part.read_bytes()
    with tarfile.open(part) as tar:
        places = [place for member in tar for place in (member.offset + 5, member.offset_data + 5)]
    for place in (*places, len(whole) - 1):
        part.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="damaged"):
            read(part)
    for size in (0, 600, *(place - 5 for place in places[2:]), len(whole) - tarfile.RECORDSIZE):
        part.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="damaged"):
            read(part)


def test_a_part_that_is_not_right_is_refused(made):
    write, read = made
    parts = write("a/large")
    with tarfile.open(parts[0], "a") as tar:
        link = tarfile.TarInfo("a/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(ValueError, match="a/link is not a plain file"):
        read(*parts)
    for kind, size in ((tarfile.GNUTYPE_SPARSE, 0), (tarfile.CONTTYPE, 0), (tarfile.REGTYPE, packs.PART + 1)):
        [part] = write("a/small")
        with tarfile.open(part, "a") as tar:
            other = tarfile.TarInfo("a/other")
            other.type, other.size = kind, size
            tar.addfile(other, io.BytesIO(bytes(size)))
        with pytest.raises(ValueError, match="a/other is not a plain file of at most"):
            read(part)
    with tarfile.open(write("a/large")[0], "a") as tar:
        tar.addfile(tarfile.TarInfo("a/other"))
    with pytest.raises(ValueError, match="holds a/other, which its manifest does not list"):
        read(*parts)


SCRIPT = """
import os, signal, sys, time
from pathlib import Path

name, way = sys.argv[1], Path("ways", sys.argv[1])
with open("ran", "a") as file:
    file.write(name + " ")
Path(f"{name}.out").write_text(os.environ["ADVEBM_TRACKING"])
way = way.read_text() if way.is_file() else ""
if way == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if way in ("deaf", "long"):
    Path(f"{name}.pid").write_text(str(os.getpid()))
    Path("begun").touch()
    time.sleep(60)
if way.startswith("meets "):
    Path(f"{name}.here").touch()
    while not Path(way[6:] + ".here").exists():
        time.sleep(0.01)
    print("met", way[6:])
sys.exit(int(way) if way.isdigit() else 0)
"""


@pytest.fixture
def small_project(tmp_path, monkeypatch):
    """A folder whose stages, named like the real ones, behave as a file says: (a function that makes a stage, a
    function that sets how one behaves)."""
    monkeypatch.chdir(tmp_path)
    Path("stage.py").write_text(SCRIPT)
    Path("ways").mkdir()

    def stage(name, *deps):
        return pipeline.Stage(name, name, f"python3 stage.py {name}", tuple(f"{dep}.out" for dep in deps), (f"{name}.out",))

    return stage, lambda name, way: Path("ways", name).write_text(way)


class Endless:
    """A piece that is over as soon as the file `begun` exists."""

    code = pieces.AGAIN

    def left(self):
        return 0

    def over(self):
        return Path("begun").exists()


def test_what_does_not_depend_on_a_failed_stage_is_run(small_project, capsys, monkeypatch):
    stage, behave = small_project
    stages = [stage("a"), stage("b", "a"), stage("c", "b"), stage("d"), stage("e"), stage("f", "e", "d")]
    behave("a", "3")
    behave("e", "4")
    assert pieces.run("tiny", stages, Endless()) == 3 and Path("ran").read_text() == "a d e "
    err = capsys.readouterr().err
    assert "advebm: a failed with exit code 3; not run because they depend on it: b, c\n" in err
    assert "advebm: e failed with exit code 4; not run because they depend on it: f\n" in err
    assert Path("d.out").read_text() == "outbox"
    behave("a", "0")
    behave("e", "0")
    monkeypatch.setenv("ADVEBM_TRACKING", "off")
    assert pieces.run("tiny", stages, Endless()) == 0 and Path("ran").read_text() == "a d e a b c e f "
    assert Path("b.out").read_text() == "off"


def test_a_stage_that_does_not_end_is_killed(small_project, monkeypatch):
    stage, behave = small_project
    monkeypatch.setattr(pipeline, "GRACE", 0.5)
    behave("a", "deaf")
    one = pipeline.Running("tiny", stage("a"), tracking="off")
    until(lambda: one.poll(stop=Endless().over()))
    assert one.code() == 128 + signal.SIGKILL
    assert not running(int(Path("a.pid").read_text()))
    assert pieces.run("tiny", [stage("b"), stage("c")], Endless()) == pieces.AGAIN


def test_several_stages_run_at_a_time(small_project, capsys):
    """Here `a` and `b` end only if both run at once; what needs one that failed is not run, what needs the other is."""
    stage, behave = small_project
    stages = [stage("a"), stage("b"), stage("c", "a", "b"), stage("d"), stage("e", "d"), stage("f", "c")]
    behave("a", "meets b")
    behave("b", "meets a")
    behave("d", "7")
    assert pieces.run("tiny", stages, Endless(), jobs=2) == 7
    ran = Path("ran").read_text().split()
    assert set(ran[:2]) == {"a", "b"} and sorted(ran) == ["a", "b", "c", "d", "f"] and ran.index("c") < ran.index("f")
    shown = capsys.readouterr()
    assert "advebm: d failed with exit code 7; not run because they depend on it: e\n" in shown.err
    log = pipeline.log("tiny", stages[0])
    assert f"== a, 0 s left; it prints into {log}\n" in shown.out and log.read_text() == "met b\n"


def test_what_is_done_is_packed_while_others_run(small_project):
    """Here `b` ends only after `a` has been packed."""
    stage, behave = small_project
    stages, packed = [stage("a"), stage("b")], []
    behave("b", "meets a pack")
    packing = pieces.Packing("tiny", stages)

    def after():
        packing.seldom.cost = 1e6 * len(packed)  # as if the first time had taken long
        packing()
        packed.append(sorted(entry["path"] for entry in packs.read(Path("away/tiny").iterdir(), Path()).manifest["files"]))
        Path("a pack.here").touch()

    assert pieces.run("tiny", stages, Endless(), jobs=2, after=after) == 0 and packed == [["a.out"], ["a.out"]]
    assert len(packs.read(pieces.pack("tiny", stages), Path()).manifest["files"]) == 2


def test_all_that_run_end_with_the_piece(small_project, capsys):
    stage, behave = small_project
    behave("a", "long")
    behave("b", "long")
    assert pieces.run("tiny", [stage("a"), stage("b"), stage("c")], Endless(), jobs=2) == pieces.AGAIN
    assert "the piece is over in " in capsys.readouterr().out
    assert not any(running(int(file.read_text())) for file in Path().glob("*.pid"))


def test_what_another_process_writes_is_not_removed(small_project, capsys):
    stage, _ = small_project
    Path("a.out").write_text("another's")
    project.lock(Path("a.out")).parent.mkdir(parents=True, exist_ok=True)
    with FileLock(project.lock(Path("a.out"))):
        assert pieces.run("tiny", [stage("a"), stage("b")], Endless()) == 1
    assert "a.out: another process is writing it" in capsys.readouterr().err
    assert Path("a.out").read_text() == "another's" and Path("ran").read_text() == "b "


def running(pid):
    """Whether a process is running, not only waiting for its exit code to be read."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def begun(small_project):
    """A function that starts `away` in the small project, whose first stage is slow: (process, its stage's pid)."""
    shutil.copy(PROJECT / "params.yaml", ".")
    names = [*pieces.SOON, *pieces.LATE, "scores"]
    each = "\n".join(
        f"  {name}:\n    foreach: []\n    do: {{cmd: 'python3 stage.py {name}', outs: [{name}.out]}}" for name in names
    )
    ends = "\n".join(f"  {name}: {{cmd: python3 stage.py {name}}}" for name in ("report", "compare"))
    Path("dvc.yaml").write_text(f"stages:\n{each}\n{ends}\n")
    small_project[1]("train", "long")
    command = [sys.executable, "-m", "advebm", "away", "tiny", "600", "at"]
    environment = os.environ | {"PYTHONPATH": str(PROJECT / "pkg")}
    processes = []

    def start(wait=True):
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        processes.append(subprocess.Popen(command, env=environment, **options))
        if not wait:
            return processes[-1]
        until(Path("begun").exists)
        return processes[-1], int(Path("train.pid").read_text())

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_a_signal_ends_a_piece(begun, name):
    process, pid = begun()
    if name == "SIGHUP":
        other = begun(wait=False)
        shown = other.communicate()[0]
        assert (
            other.returncode == 1
            and shown == "advebm: state/away: another process is writing it; wait for it, or stop it\n"
        )
    process.send_signal(getattr(signal, name))
    shown = process.communicate()[0]
    assert process.returncode == 128 + getattr(signal, name) and not running(pid)
    assert f"stopped by {name} in train@at; run it again\npacked 1 files" in shown


def test_a_stage_does_not_outlive_what_started_it(begun):
    process, pid = begun()
    assert running(pid)
    process.kill()
    until(lambda: not running(pid))


def test_weights_of_inception_are_asked_for_first(tmp_path, monkeypatch):
    monkeypatch.setenv("ADVEBM_DATA", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    study = config.read(PROJECT / "params.yaml", "cifar10-smoke")
    name = "weights-inception-2015-12-05-6726825d.pth"
    with pytest.raises(FileNotFoundError, match=f"{name}: Inception's weights are missing; see data/README.md"):
        away.weights(study)
    (tmp_path / "hub/hub/checkpoints").mkdir(parents=True)
    (tmp_path / "hub/hub/checkpoints" / name).touch()  # where torch-fidelity saves its download
    away.weights(study)
    study["quality"] = {**study["quality"], "inception": "others.pth"}
    with pytest.raises(FileNotFoundError, match=r"others.pth: Inception's weights are missing"):
        away.weights(study)
    (tmp_path / "others.pth").touch()
    away.weights(study)
    away.weights(config.read(PROJECT / "params.yaml", "tiny"))
