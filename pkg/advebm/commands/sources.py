"""What the data sets of a study are made of."""

import hashlib
from pathlib import Path

from advebm import config
from advebm.commands import options as o
from advebm.runtime import disk, project


def sources(
    out: o.OutFile,
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
    root: o.Root = None,
) -> None:
    """Write the digest of each source of files that the study's data are read from, npz:FILE and folder:DIR. The others are
    part of a package, or have published digests, which `prepare` checks."""
    spec = config.build(config.Data, config.read(params, study)["data"])
    names = dict.fromkeys((spec.source, spec.outliers, *spec.out.values()))
    found = {name: digest(name, project.data_root(root)) for name in names}
    disk.write_json(out, {name: value for name, value in found.items() if value})


def digest(name: str, root: Path) -> str | None:
    """sha256 of the files of a source `npz:FILE` or `folder:DIR` and of their names in it; None for other sources. Raises
    FileNotFoundError."""
    kind, _, argument = name.partition(":")
    place = root / argument
    if kind not in ("npz", "folder"):
        return None
    if not place.exists():
        raise FileNotFoundError(f"{place}: not there, but {name} is a source of the study")
    from advebm.data.folders import pictures

    found = hashlib.sha256()
    for file in pictures(place) if place.is_dir() else [place]:
        with disk.opened(file) as content:
            found.update(f"{file.relative_to(place)} {hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return found.hexdigest()
