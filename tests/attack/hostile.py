"""Input that is made to do harm."""

import contextlib
import io
import json
import os
import random
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import yaml
from PIL import Image
from steps import DATA, MODEL, START, STEPS, Arena, run


def hostile(arena: Arena) -> str:
    """Input that is made to hang, to fill the memory or to write elsewhere: one line, and nothing written outside."""
    folder = arena.good.inputs("report", arena.folder / "tree")
    for path in (DATA, START, "judge", "warm", "baselines"):
        arena.good.copy(path, folder)
    make = arena.rng.choice(HOSTILE)
    before = set(arena.folder.rglob("*"))
    arguments, refused = make(folder, arena.rng)
    made = set(arena.folder.rglob("*"))
    end = run(folder, arguments)
    arena.note(f"{make.__name__.strip('_')}: {' '.join(arguments)}: {end.out}")
    outside = {p for p in set(arena.folder.rglob("*")) - made - before if folder not in p.parents}
    if outside:
        arena.note(f"written outside: {sorted(map(str, outside))}")
        return "silent"
    shown = [f for f in (folder / "report.md", folder / "report.html") if f.exists() and "<script>alert" in f.read_text()]
    return end.verdict(lambda: not refused and not shown)


def _images(folder: Path, rng: random.Random) -> Path:
    """A folder of images of two classes."""
    for i, label in ((i, label) for i in range(20) for label in "ab"):
        file = folder / "images" / label / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(rng.randrange(99)).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file)
    return folder / "images"


def _prepared(folder: Path, source: str, **out: str) -> list[str]:
    """The arguments that prepare data of that source."""
    content = yaml.safe_load((folder / "params.yaml").read_text())
    sets = {"validation": 4, "test": 4, "outliers": "uniform", "out_size": 2, "out": out or {"uniform": "uniform"}}
    content["tiny"]["data"] = {"source": source, **sets}
    (folder / "params.yaml").write_text(yaml.safe_dump(content))
    return ["prepare", "--study", "tiny", "--out", "elsewhere", "-q"]


def _fifo(folder: Path, rng: random.Random) -> tuple[list[str], bool]:
    images = _images(folder, rng)
    os.mkfifo(images / "a" / "z.png")
    return _prepared(folder, f"folder:{images}"), True


def _bomb_image(folder: Path, rng: random.Random) -> tuple[list[str], bool]:
    images = _images(folder, rng)
    Image.new("1", (13_000, 13_000)).save(images / "b" / "z.png")
    return _prepared(folder, f"folder:{images}"), True


def _bomb_npz(folder: Path, rng: random.Random) -> tuple[list[str], bool]:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 8, 8, 3)})
    with zipfile.ZipFile(folder / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("x.npy", header.getvalue() + bytes(10**7))
        opened.writestr("y.npy", header.getvalue() + bytes(10**7))
    return _prepared(folder, f"npz:{folder / 'bomb.npz'}"), True


def _names(folder: Path, rng: random.Random) -> tuple[list[str], bool]:
    name = rng.choice(["../../evil", str(folder.parent / "evil"), "a/b", "<script>alert(1)</script>", "..", "a\nb"])
    return _prepared(folder, "digits", **{name: "uniform"}), True


def _study_name(folder: Path, rng: random.Random) -> tuple[list[str], bool]:
    content = yaml.safe_load((folder / "params.yaml").read_text())
    name = rng.choice(["../../evil", "<script>alert(1)</script>", ".."])
    content[name] = content["tiny"]
    (folder / "params.yaml").write_text(yaml.safe_dump(content))
    return ["check", "robust_jem", "--study", name, "--out", f"study/{name}"], True


def _deep_yaml(folder: Path, rng: random.Random) -> tuple[list[str], bool]:
    bracket = rng.choice(["[", "{a: ", "- "])
    (folder / "params.yaml").write_text("tiny: " * (bracket != "- ") + bracket * 100_000)
    return STEPS["prepare"].arguments, True


def _deep_json(folder: Path, rng: random.Random) -> tuple[list[str], bool]:
    file = rng.choice(["results/quality.json", "data/about.json"])
    (folder / file).write_text("[" * 100_000)
    return STEPS["report" if "quality" in file else "gaussians"].arguments, True


def _header(folder: Path, rng: random.Random) -> tuple[list[str], bool]:
    """A model whose header asks for a network that fills the memory, or never ends."""
    file = folder / MODEL
    content = file.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    about = header["__metadata__"]
    key, value = rng.choice([("depth", 10**9), ("width", 400), ("depth", 6 * 10**5 + 4), ("width", 10**9)])
    for name, text in about.items():
        with contextlib.suppress(ValueError, AttributeError):
            described = json.loads(text)
            if key in described.get("network", described):
                described.get("network", described)[key] = value
                about[name] = json.dumps(described)
    new = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(new)) + new + content[8 + size :])
    return STEPS["fisher"].arguments, True


def _script(folder: Path, rng: random.Random) -> tuple[list[str], bool]:
    """A tag in a string of a result, where the page shows it."""
    file = folder / rng.choice(["results/ood.json", "results/robustness.json", "results/quality.json"])
    content = json.loads(file.read_text())

    def renamed(value: object) -> object:
        if isinstance(value, dict):
            return {"<script>alert(1)</script>" if key == "uniform" else key: renamed(v) for key, v in value.items()}
        return value

    file.write_text(json.dumps(renamed(content)))
    return STEPS["report"].arguments, False


def _tar(folder: Path, rng: random.Random) -> tuple[list[str], bool]:
    with tarfile.open(folder / "part-0.tar", "w") as opened:
        entry = tarfile.TarInfo(rng.choice(["../../evil", "/tmp/evil-advebm", "results/evil"]))
        kind = rng.choice(["file", "link", "fifo"])
        if kind == "file":
            entry.size = 4
            opened.addfile(entry, io.BytesIO(b"evil"))
        else:
            entry.type = tarfile.SYMTYPE if kind == "link" else tarfile.FIFOTYPE
            entry.linkname = "/etc/passwd"
            opened.addfile(entry)
    return ["receive", "part-0.tar"], True


HOSTILE = [_fifo, _bomb_image, _bomb_npz, _names, _study_name, _deep_yaml, _deep_json, _header, _script, _tar]
