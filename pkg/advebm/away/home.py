"""Receive what `advebm away` packed on another machine."""

import math
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from advebm import config
from advebm.away import packs, pipeline
from advebm.away.packs import Pack
from advebm.away.pieces import HOME, identity
from advebm.away.pipeline import Stage
from advebm.runtime import disk, outbox, project, tracking

OUTBOX = re.compile(r"state/outbox/([0-9a-f]+-[0-9a-f]+)/(.+)")
PARAMS = Path("params.yaml")
CLOSE = 1e-3  # relative difference of class Gaussians that is allowed: machines round differently


def receive(parts: list[Path]) -> None:
    """See the command of this name."""
    state = project.root() / "state"
    state.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=state) as folder:
        pack = packs.read(parts, Path(folder))
        stages = defined(pack)
        has_dvc = prepared(pack)
        for path, some in pack.incomplete.items():
            print(f"{path}: is incomplete: only {some}")
        with project.locked(*(Path(out) for stage in stages.values() for out in stage.outs)):
            found = unpack(stages, pack)
        if not tracking.off():
            queue(pack)
    print(f"received {len(pack.contents)} of {len(pack.manifest['files'])} files of {pack.manifest['study']}")
    commit(stages, found, has_dvc)
    if tracking.off():
        return
    try:
        print(f"sent the outbox of {tracking.sync()} stages to {tracking.uri()}")
    except ConnectionError as error:
        print(f"advebm: {error}; `advebm sync` sends them", file=sys.stderr)


def defined(pack: Pack) -> dict[str, Stage]:
    """The stages whose files the pack holds, as they are defined here, in order. Raises ValueError if params.yaml
    selects another study than the pack's, or if the pack holds a file that none of them writes."""
    content, study = config.read_yaml(PARAMS), pack.manifest["study"]
    if content.get("study") != study:
        raise ValueError(f"{PARAMS}: study is {content.get('study')}, but the files are of {study}; select that first")
    known = pipeline.read(study, content["method"], content["methods"], content["seed"])
    there = [name for name in pack.manifest["stages"] if name in known and name not in HOME]
    stages = {stage.name: stage for stage in pipeline.ordered(known, there) if stage.name in there}
    for path in (entry["path"] for entry in pack.manifest["files"]):
        written = any(pipeline.within(path, out) for stage in stages.values() for out in stage.outs)
        if not written and not OUTBOX.fullmatch(path):
            raise ValueError(f"{path}: no stage of {study} writes this file here; nothing is unpacked")
    return stages


def prepared(pack: Pack) -> bool:
    """Whether DVC is installed and set up here; if so, make data and class Gaussians. Raises OSError if DVC fails,
    ValueError if they differ from the pack's."""
    study, theirs = pack.manifest["study"], pack.manifest["home"]
    can = find_spec("dvc") is not None and Path(".dvc").is_dir()
    if can and not dvc("repro", "gaussians"):
        raise OSError("`dvc repro gaussians` failed, see above; nothing is unpacked")
    here = identity(study)
    if can and not here:
        raise FileNotFoundError(f"data/{study} or its class Gaussians are missing; nothing is unpacked")
    for name, kind in (("images", f"the images of data/{study} differ"), ("gaussians", "the class Gaussians differ")):
        if here and theirs and not close(here[name], theirs.get(name)):
            raise ValueError(f"{kind} from those that these files were made with, see data/README.md; nothing is unpacked")
    return can


def dvc(*arguments: str) -> bool:
    """Run DVC, with this Python first on the path; returns whether it succeeded."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return subprocess.run([sys.executable, "-m", "dvc", *arguments], env=os.environ | {"PATH": path}).returncode == 0


def close(here: Any, there: Any) -> bool:
    """Whether two values are equal, floats up to rounding."""
    if isinstance(here, list) and isinstance(there, list):
        return len(here) == len(there) and all(map(close, here, there))
    return math.isclose(here, there, rel_tol=CLOSE) if isinstance(here, float) else here == there


def queue(pack: Pack) -> None:
    """Put the records for MLflow into the outbox, except those of an incomplete training and of its measurements, which
    would open another run."""
    records: dict[str, dict[str, str]] = {}  # paths, by stage and by their names in its folder
    for path in (entry["path"] for entry in pack.manifest["files"]):
        if match := OUTBOX.fullmatch(path):
            records.setdefault(match[1], {})[match[2]] = path
    missing, journals = set(), {}
    for uid, names in list(records.items()):
        journal = pack.contents.get(names.get("events.jsonl", ""))
        if journal:
            journals[uid] = journal.read_bytes()
            try:
                outbox.parse(journals[uid])
            except ValueError as error:
                print(
                    f"advebm: state/outbox/{uid}: its records for MLflow are damaged ({error}); not sent", file=sys.stderr
                )
                del records[uid], journals[uid]
                continue
        if not journal or (not set(names.values()) <= set(pack.contents) and not outbox.received(uid, journals[uid])):
            missing.add(uid)
    waiting = {outbox.checkpoints(journals[uid])[1] for uid in missing & set(journals)} - {None}
    unknown = bool(missing - set(journals))  # they may be trainings
    for uid, names in records.items():
        measured = outbox.checkpoints(journals[uid])[0] if uid in journals else None
        if uid in missing or measured in waiting or (measured and unknown):
            print(f"not sent to MLflow until more parts are received: state/outbox/{uid}")
        else:
            outbox.receive(uid, {name: pack.contents[path] for name, path in names.items()})


def unpack(stages: dict[str, Stage], pack: Pack) -> dict[str, list[str]]:
    """Move files to their places: write all next to these, then rename them, stage after stage. Returns what differs
    here for each stage. If nothing does, the stage is done, and other files in its folders are removed; if not, files
    that are here are kept."""
    listed = {entry["path"]: entry["sha256"] for entry in pack.manifest["files"] if not OUTBOX.fullmatch(entry["path"])}
    temporary = {path: Path(f"{path}.part") for path in listed if path in pack.contents}
    found = {}
    try:
        for path, part in temporary.items():
            part.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(pack.contents[path].read_bytes())
            disk.force(part)
        for name, stage in stages.items():
            outs = pack.manifest["stages"][name]["outs"]
            found[name] = list(differences(stage, pack, listed))
            for out in stage.outs:
                files = {path: sha256 for path, sha256 in listed.items() if pipeline.within(path, out)}
                others = [file for file in pipeline.files(Path(out)) if file.as_posix() not in files]
                if found[name] and (others or any(pipeline.digest(Path(p)) not in (None, s) for p, s in files.items())):
                    found[name].append(f"{out} is kept as it was")
                    continue
                for path in files.keys() & temporary.keys():
                    temporary[path].replace(path)
                for file in others:
                    file.unlink()
                disk.force(*{Path(path).parent for path in files.keys() & temporary.keys()})
            if not found[name]:  # its outputs are then those of the pack
                found[name] += [f"{out} is incomplete" for out, s in outs.items() if s != stage.now()["outs"].get(out)]
    finally:
        for part in temporary.values():
            part.unlink(missing_ok=True)
    return found


def differences(stage: Stage, pack: Pack, listed: Iterable[str]) -> Iterator[str]:
    """How a stage differs here from the pack; listed: the pack's files. Data and class Gaussians were found equal."""
    here, there = stage.now(), pack.manifest["stages"][stage.name]
    same = {out for name in HOME[1:] for out in pack.manifest["stages"].get(name, {}).get("outs", {})}
    if here["command"] != there["command"]:
        yield "its command differs"
    for path in sorted({*here["deps"], *there["deps"]} - same):
        if here["deps"].get(path) != there["deps"].get(path):
            yield f"{path} differs" if here["deps"].get(path) else f"{path} is missing"
    for out in there["outs"]:
        files = [path for path in listed if pipeline.within(path, out)]
        if not files or not all(path in pack.contents for path in files):
            yield f"{out} is incomplete"


def commit(stages: dict[str, Stage], found: dict[str, list[str]], has_dvc: bool) -> None:
    """Commit stages to DVC, and print which ones cannot be. Raises OSError if DVC fails."""
    for name, differing in found.items():
        if differing:
            print(f"{name}: will run here: {', '.join(differing)}")
    if not has_dvc:
        print("DVC is not installed, so nothing was committed: install it and receive the files again before `dvc repro`")
        return
    taken = [stage for name, stage in stages.items() if not found[name]]
    if taken and not dvc("commit", "--quiet", "--force", *(stage.target for stage in taken)):
        raise OSError("`dvc commit` failed, see above; the files are unpacked: fix that and receive them again")
    print(f"committed to DVC: {', '.join(stage.name for stage in taken) or 'nothing'}")
