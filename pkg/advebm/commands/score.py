"""Classes and scores of anybody's images, by a trained model."""

import csv
import io
import json
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from advebm.commands import options as o

SHOWN = 20  # images of each row of the picture


def score(
    images: Annotated[Path, Argument(help="folder of images, or .npz with x uint8 (N, H, W, C)")],
    model: o.ModelFile,
    out: Annotated[Path | None, Option(help="file to write, .csv or .jsonl [default: CSV to standard output]")] = None,
    quiet: o.Quiet = False,
) -> None:
    """Classify and score images: a line for each, with its class and confidence (empty where the model has none), its
    energy and its score, and whether it is in- or out-distribution: 95% of the validation images are in. With --out, a
    picture of the most and the least likely images is written beside it."""
    if out is not None and out.suffix not in (".csv", ".jsonl"):
        raise ValueError(f"--out {out}: must end with .csv or .jsonl")
    import numpy as np

    from advebm import api
    from advebm.data import given
    from advebm.runtime import disk, progress
    from advebm.runtime.parts import BATCH

    if out is not None:
        from advebm import figures  # report that it is not installed before computing

    loaded = api.load(model)
    found, names = given.read(images)
    try:
        given.pixels(found.x[0], loaded.shape)
    except ValueError as error:
        raise ValueError(f"{images}: {error}") from error
    rows: list[dict[str, Any]] = []
    for first in progress.bar(f"score {images}", quiet)(range(0, len(names), BATCH)):
        x = found.x[first : first + BATCH]
        scores, energies = loaded.score(x).tolist(), loaded.energy(x).tolist()
        seen: list[tuple] = [(None, None)] * len(x)
        if loaded.classifies:
            y, p = loaded.classify(x)
            seen = list(zip(y.tolist(), p.amax(1).tolist(), strict=True))
        for name, (k, confidence), energy, value in zip(names[first:], seen, energies, scores, strict=False):
            where = "in" if value >= loaded.threshold else "out"
            row = {"class": k, "confidence": confidence, "energy": energy, "score": value, "distribution": where}
            rows.append({"image": name} | {key: _short(entry) for key, entry in row.items()})
    if out is None:
        print(_written(rows), end="")
        return
    order = np.argsort([-row["score"] for row in rows], kind="stable")
    ends = {"most likely": found.x[order[:SHOWN]], "least likely": found.x[order[::-1][:SHOWN]]}
    out.parent.mkdir(parents=True, exist_ok=True)
    picture = figures.sheets(ends, out.with_suffix(".png"), f"{images} by {model}", SHOWN)
    lines = _written(rows) if out.suffix == ".csv" else "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
    disk.write(out, lines.encode())
    inside = sum(row["distribution"] == "in" for row in rows)
    print(f"wrote {out} and {picture}: {inside} of {len(rows)} images are in-distribution")


def _short(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _written(rows: list[dict[str, Any]]) -> str:
    """The rows as CSV; None is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
