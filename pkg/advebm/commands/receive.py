"""What `advebm away` packed on another machine, taken for the stages' own."""

import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument

from advebm import config
from advebm.commands import options as o
from advebm.commands.away import HOME, facts

if TYPE_CHECKING:
    from advebm.packs import Pack
    from advebm.pipeline import Stage

OUTBOX = re.compile(r"state/outbox/([0-9a-f]+-[0-9a-f]+)/(.+)")
CLOSE = 1e-3  # by how much numbers of the class Gaussians may differ, relatively: machines round differently


def receive(parts: Annotated[list[Path], Argument(help="files that `advebm away` wrote, all or the first ones")]) -> None:
    """Unpack what stages wrote on another machine, let DVC take them for done, and tell MLflow.

    Data and class Gaussians are made here first, by `dvc repro gaussians`, and must be those that were used there. A stage
    is taken for done where its command and all that it depends on are here as they were there. Nothing is written unless
    all parts are whole.
    """
    from advebm import packs, tracking

    state = config.root() / "state"
    state.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=state) as folder:
        pack = packs.read(parts, Path(folder))
        stages = accepted(pack)
        told = made(pack)
        contents = pack.came()
        unpack({path: content for path, content in contents.items() if not OUTBOX.fullmatch(path)}, pack)
        for uid, names in records(pack).items():
            if set(names.values()) <= set(contents):
                tracking.receive(uid, {name: contents[path] for name, path in names.items()})
            else:
                print(f"not told to MLflow before all parts have come: state/outbox/{uid}")
    print(f"received {len(contents)} of {len(pack.manifest['files'])} files of {pack.manifest['study']}")
    done = {name: stages[name] for name in pack.manifest["stages"] if name in stages and name not in HOME}
    commit(done, pack, told)
    try:
        print(f"sent what waited of {tracking.sync()} stages to {tracking.uri()}")
    except ConnectionError as error:
        print(f"advebm: {error}; `advebm sync` sends it", file=sys.stderr)


def accepted(pack: "Pack") -> dict[str, "Stage"]:
    """The stages of dvc.yaml here. Raises ValueError where params.yaml selects another study than the pack's, or the pack
    holds a file that none of them writes."""
    from advebm import pipeline

    content, study = config.read_yaml(o.PARAMS), pack.manifest["study"]
    if content.get("study") != study:
        raise ValueError(f"{o.PARAMS}: study is {content.get('study')}, but the files are of {study}; select that first")
    stages = pipeline.read(study, content["method"], content["methods"], content["seed"])
    outs = [out for name, stage in stages.items() if name not in HOME for out in stage.outs]
    for path in (entry["path"] for entry in pack.manifest["files"]):
        if not OUTBOX.fullmatch(path) and not any(pipeline.within(path, out) for out in outs):
            raise ValueError(f"{path}: is no file that a stage of {study} writes here; nothing is unpacked")
    return stages


def made(pack: "Pack") -> bool:
    """Whether DVC is here and has data and class Gaussians. Raises ValueError where they are others than the pack's."""
    study, there = pack.manifest["study"], pack.manifest["home"]
    can = find_spec("dvc") is not None and Path(".dvc").is_dir() and dvc("repro", "gaussians")
    here = facts(study)
    for name, kind in (("images", f"data/{study} holds other images"), ("gaussians", "the class Gaussians are others")):
        if here and there and not close(here[name], there[name]):
            raise ValueError(f"{kind} than where these files were made, see data/README.md; nothing is unpacked")
    return can and bool(here)


def dvc(*arguments: str) -> bool:
    """Run DVC with this Python before others; whether it succeeds."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return subprocess.run([sys.executable, "-m", "dvc", *arguments], env=os.environ | {"PATH": path}).returncode == 0


def close(here: Any, there: Any) -> bool:
    """Whether these are the same, numbers but for rounding."""
    if isinstance(here, list) and isinstance(there, list):
        return len(here) == len(there) and all(map(close, here, there))
    return math.isclose(here, there, rel_tol=CLOSE) if isinstance(here, float) else here == there


def records(pack: "Pack") -> dict[str, dict[str, str]]:
    """Paths of what MLflow is to be told, by their names in the folder of each stage."""
    found: dict[str, dict[str, str]] = {}
    for path in (entry["path"] for entry in pack.manifest["files"]):
        if match := OUTBOX.fullmatch(path):
            found.setdefault(match[1], {})[match[2]] = path
    return found


def unpack(contents: dict[str, Path], pack: "Pack") -> None:
    """Put files in their places: first all beside these, then each by its name. In folders that came whole nothing else is
    left."""
    from advebm import disk, pipeline

    beside = {Path(path): Path(f"{path}.part") for path in contents}
    try:
        for (path, part), content in zip(beside.items(), contents.values(), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(content.read_bytes())
            disk.force(part)
    except BaseException:
        for part in beside.values():
            part.unlink(missing_ok=True)
        raise
    for path, part in beside.items():
        part.replace(path)
    disk.force(*{path.parent for path in beside})
    listed = {entry["path"] for entry in pack.manifest["files"]}
    for out in (out for name, found in pack.manifest["stages"].items() if name not in HOME for out in found["outs"]):
        whole = {path for path in listed if pipeline.within(path, out)}
        if Path(out).is_dir() and whole and whole <= set(contents):
            for file in pipeline.files(Path(out)):
                if file.as_posix() not in whole:
                    file.unlink()


def commit(stages: dict[str, "Stage"], pack: "Pack", told: bool) -> None:
    """Let DVC take the stages for done, and say of which it cannot. Raises OSError where DVC does not."""
    same = [out for name in HOME[1:] for out in pack.manifest["stages"].get(name, {}).get("outs", {})]
    taken = []
    for name, stage in stages.items():
        differing = list(differences(stage.now(), pack.manifest["stages"][name], same))
        if differing:
            print(f"{name}: will run here, for {', '.join(differing)}")
        else:
            taken.append(stage)
    if not told:
        print(
            "DVC was not told: it is not installed, or `dvc repro gaussians` has failed, see above. Receive the files again"
        )
        print("when that is mended, and before `dvc repro`, which would run all of this anew")
        return
    if taken and not dvc("commit", "--quiet", "--force", *(stage.target for stage in taken)):
        raise OSError("`dvc commit` has failed, see above; the files are unpacked: receive them again when it can")
    print(f"done for DVC: {', '.join(stage.name for stage in taken) or 'nothing'}")


def differences(here: dict[str, Any], there: dict[str, Any], same: list[str]) -> Iterator[str]:
    """What a stage is other by here than there; same: paths that were found to be the same."""
    if here["command"] != there["command"]:
        yield "its command is another"
    for path in sorted({*here["deps"], *there["deps"]} - {*same}):
        if here["deps"].get(path) != there["deps"].get(path):
            yield f"{path} is another" if here["deps"].get(path) else f"{path} is not here"
    for path, sha256 in there["outs"].items():
        if here["outs"].get(path) != sha256:
            yield f"{path} has not come whole"
