"""What befalls a machine: kills, damage, files of another run, a full disk."""

import contextlib
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from steps import DATA, ROOT, STEPS, Arena, End, contents, run

PIPE, STDOUT = subprocess.PIPE, subprocess.STDOUT
CAPTURED: dict[str, Any] = {"stdout": PIPE, "stderr": STDOUT, "text": True}
DVC = {**os.environ, "OMP_NUM_THREADS": "1", "ADVEBM_TRACKING": "off", "DVC_NO_ANALYTICS": "1"}
TRAIN = ["dvc", "repro", "-s", "-f", "stages/train/dvc.yaml:train@robust_jem"]
BEFORE = ["dvc", "repro", "check", "prepare", "gaussians", "warm"]


def killed(arena: Arena) -> str:
    """kill -9 at one to three moments, then the same command again."""
    name = arena.rng.choice(list(STEPS))
    folder, arguments = arena.good.inputs(name, arena.folder / "tree"), STEPS[name].arguments
    tracked = arena.rng.random() < 0.3 and name.startswith("train") and name != "train judge"
    tracking = {"ADVEBM_TRACKING": "on", "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"} if tracked else {}
    arena.note(f"{name}{', tracked' if tracked else ''}")
    for _ in range(arena.rng.randint(1, 3)):
        moment = arena.moment(name) + (arena.rng.uniform(0, 8) if tracked else 0)
        arena.note(f"kill -9 after {moment:.2f} s")
        run(folder, arguments, kill=moment, **tracking)
    end = run(folder, arguments, **tracking)
    arena.note(end.out)
    verdict = end.verdict(lambda: arena.good.same(name, folder))
    if verdict == "same" and tracked:
        synced = run(folder, ["sync"], **tracking)
        found = runs(folder / "mlflow.db")
        arena.note(f"{synced.out} MLflow's runs: {found}")
        return "same" if synced.code == 0 and found.count("FINISHED") == 1 and "RUNNING" not in found else "silent"
    return verdict if verdict == "same" else "lost" if verdict == "told" else verdict


def runs(store: Path) -> list[str]:
    """The states of the runs in an MLflow store."""
    with contextlib.closing(sqlite3.connect(store)) as opened:
        return [row[0] for row in opened.execute("select status from runs where lifecycle_stage = 'active'")]


def spoil(path: Path, rng: random.Random, *, optional: bool = False) -> str:
    """Damage a file in one of the ways that disks, transfers and people do; an optional one is not removed."""
    content = bytearray(path.read_bytes())
    kinds = ["bit"] * 4 + ["content"] * 2 + ["cut", "zeros", "empty", "text", "page", "null", "folder"]
    kind = rng.choice(kinds if optional else [*kinds, "gone"])
    if kind == "bit":
        at = rng.randrange(len(content) * 8)
        content[at // 8] ^= 1 << at % 8
        kind = f"bit {at}"
    elif kind == "content":
        return other_content(path, rng)
    elif kind == "cut":
        del content[rng.randrange(len(content)) :]
    elif kind == "zeros":
        at = rng.randrange(len(content))
        content[at : at + 512] = bytes(len(content[at : at + 512]))
    elif kind in ("folder", "gone"):
        path.unlink()
        if kind == "folder":
            path.mkdir()
        return kind
    else:
        text = {
            "empty": "",
            "text": "version https://git-lfs.github.com/spec/v1",
            "page": "<!DOCTYPE html>",
            "null": "null",
        }
        content = bytearray(text[kind].encode())
    path.write_bytes(content)
    return kind


def other_content(path: Path, rng: random.Random) -> str:
    """Write a valid file of the same kind and form with other content."""
    if path.suffix == ".npz":
        arrays = dict(np.load(path))
        arrays["x"] = 255 - arrays["x"] if arrays["x"].dtype == np.uint8 else arrays["x"][::-1]
        np.savez(path, **arrays)
        return "x inverted"
    if path.suffix == ".safetensors":
        with safe_open(path, "np") as opened:
            about, tensors = opened.metadata(), load_file(path)
        key = rng.choice(sorted(tensors))
        tensors[key] = tensors[key] * rng.choice([0, 2, np.nan])
        save_file(tensors, path, about)
        return f"{key} altered"
    text = path.read_bytes()
    digits = [match.start() for match in re.finditer(rb"[0-9]", text)]
    at = rng.choice(digits or [0])
    path.write_bytes(text[:at] + b"123456789"[(text[at] - 48) % 9 :][:1] + text[at + 1 :])
    return f"a digit at {at}"


def damaged(arena: Arena) -> str:
    """An input damaged before the command, or between its interruption and the same command again."""
    name = arena.rng.choice([name for name, s in STEPS.items() if s.reads])
    folder = arena.good.inputs(name, arena.folder / "tree")
    arena.note(name)
    if arena.rng.random() < 0.3:
        run(folder, STEPS[name].arguments, kill=arena.moment(name))
        arena.note("interrupted first")
    file = arena.rng.choice(arena.good.opened[name])
    arena.note(f"{file}: {spoil(folder / file, arena.rng, optional=name == 'report')}")
    end = run(folder, STEPS[name].arguments)
    arena.note(end.out)
    return end.verdict(lambda: arena.good.same(name, folder))


def replaced(arena: Arena) -> str:
    """One input of another split, between an interruption and the same command again: the result of a fresh run with these
    inputs, or one line; one line where a single file of the data is of another split."""
    name = arena.rng.choice([name for name, s in STEPS.items() if s.reads])
    path = arena.rng.choice([*STEPS[name].reads, *arena.good.opened[name]])
    trees = [arena.good.inputs(name, arena.folder / place) for place in ("tree", "fresh")]
    arena.note(f"{name}, {path} of another split")
    run(trees[0], STEPS[name].arguments, kill=arena.moment(name))
    for folder in trees:
        shutil.rmtree(folder / path) if (folder / path).is_dir() else (folder / path).unlink()
        arena.other.copy(path, folder)
    end, fresh = (run(folder, STEPS[name].arguments) for folder in trees)
    arena.note(f"{end.out} fresh: {fresh.out}")
    if path.startswith(f"{DATA}/"):
        return end.verdict(lambda: arena.good.same(name, trees[0]))
    if (end.code, fresh.code) == (0, 0):
        return "same" if all(contents(trees[0] / w) == contents(trees[1] / w) for w in STEPS[name].writes) else "silent"
    return end.verdict(lambda: False)


def blocks(path: Path) -> int:
    """Bytes that a file or folder takes on a disk of blocks of 4 KiB."""
    return sum(-(-len(content) // 4096) * 4096 for content in contents(path).values())


def full(arena: Arena) -> str:
    """A disk that is full, then has room: one line, then the same command completes."""
    name = arena.rng.choice(list(STEPS))
    folder, disk = arena.good.inputs(name, arena.folder / "tree"), arena.folder / "disk"
    disk.mkdir()
    room = blocks(folder) + int(arena.rng.random() * sum(blocks(arena.good.folder / path) for path in STEPS[name].writes))
    arena.note(f"{name}, {room} bytes")
    script = """mount -t tmpfs -o size=$ROOM none "$DISK" && cp -r "$TREE"/. "$DISK" && cd "$DISK" || exit 99
    "$@" > "$TREE/../first" 2>&1; echo $? > "$TREE/../code"; mount -o remount,size=2g "$DISK" && cd "$DISK" && "$@"; code=$?
    cp -r "$DISK"/. "$TREE"; exit $code"""
    prefix = ("unshare", "-rm", "sh", "-c", script, "-")
    end = run(folder, STEPS[name].arguments, prefix=prefix, ROOM=str(room), DISK=str(disk), TREE=str(folder))
    if not (arena.folder / "code").exists():
        raise SystemExit(f"a small disk cannot be mounted: {end.out}")
    first = End(int((arena.folder / "code").read_text()), (arena.folder / "first").read_text(errors="replace"), 0, 0)
    arena.note(f"full: {first.code} {first.out} then: {end.out}")
    if first.code and not first.told:
        return "loud"
    verdict = end.verdict(lambda: arena.good.same(name, folder))
    return "lost" if verdict == "told" else "told" if verdict == "same" and first.code else verdict


def project(folder: Path) -> Path:
    """A DVC project of this tree, study tiny, right before its training and, in the folder beside it, after."""
    tracked = subprocess.run(
        ["git", "ls-files", "pkg", "stages", "dvc.yaml", "pyproject.toml"], cwd=ROOT, **CAPTURED
    ).stdout
    for name in [*tracked.split("\n")[:-1], "params.yaml"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    for lock in folder.rglob("dvc.lock"):
        lock.unlink()
    params = folder / "params.yaml"
    params.write_text(re.sub(r"^study: .*$", "study: tiny", params.read_text(), flags=re.MULTILINE))
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"], BEFORE):
        subprocess.run(command, cwd=folder, check=True, env=DVC, **CAPTURED)
    after = folder.parent / "project after"
    shutil.copytree(folder, after)
    subprocess.run(TRAIN, cwd=after, check=True, env=DVC, **CAPTURED)
    return folder


def reproduced(arena: Arena) -> str:
    """kill -9 of `dvc repro`, alone or with its stage, then the same command again."""
    folder = arena.folder / "tree"
    shutil.copytree(arena.good.folder.parent / "project", folder)
    alone, moment = arena.rng.random() < 0.5, arena.rng.uniform(1, 15)
    arena.note(f"{'dvc alone' if alone else 'dvc and its stage'} after {moment:.1f} s")
    process = subprocess.Popen(TRAIN, cwd=folder, env=DVC, start_new_session=True, stdout=PIPE, stderr=STDOUT, text=True)
    time.sleep(moment)
    with contextlib.suppress(ProcessLookupError):
        (os.kill if alone else os.killpg)(process.pid, signal.SIGKILL)
    process.communicate()  # returns when no orphan holds its output any more
    again = subprocess.run(TRAIN, cwd=folder, env=DVC, **CAPTURED)
    arena.note(again.stdout)
    if again.returncode:
        return "lost"
    model = Path("models", "tiny", "robust_jem")
    return "same" if contents(folder / model) == contents(arena.good.folder.parent / "project after" / model) else "silent"
