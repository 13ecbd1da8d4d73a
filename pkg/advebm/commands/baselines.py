"""The two ends of the scale of sample quality."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from advebm import config
from advebm.commands import options as o
from advebm.data.prepared import about
from advebm.runtime import project

if TYPE_CHECKING:
    from advebm.runtime.parts import Part

Root = Annotated[
    Path | None, Option(help="where data sets and Inception's weights lie [default: ADVEBM_DATA, or data/raw]")
]


def baselines(
    data: o.Prepared,
    gaussians: o.GaussiansFile,
    judge: o.Judge,
    out: o.OutFolder,
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
    root: Root = None,
    quiet: o.Quiet = False,
) -> None:
    """Score the class Gaussians and held-out real images as samples are scored."""
    entry = config.read(params, study)
    import torch

    from advebm import networks
    from advebm.data import images
    from advebm.data.gaussians import Gaussians
    from advebm.runtime.parts import BATCH, SEED
    from advebm.runtime.state import opened
    from advebm.samplers.streams import Streams

    fitted = Gaussians.load(gaussians)
    n = entry["samples"]
    ids = torch.arange(n)
    y = ids % about(data)["classes"]
    parts = [fitted.sample(y[i], Streams(SEED, "baselines", ids=i)) for i in ids.split(BATCH)]
    drawn = images.Images(images.to_bytes(torch.cat(parts)), y.numpy())
    held_out = "validation" if entry["quality"].get("reference") == "test" else "test"
    real = images.load(data / f"{held_out}.npz")[:n]
    networks.load(judge)  # a damaged judge is told before anything is computed
    key = [entry["quality"], n, about(data)["sha256"], images.digest(gaussians), images.digest(judge)]
    with opened("baselines", out, key) as state:
        given = {"data": data, "judge": judge, "entry": entry, "root": root, "part": state.part, "quiet": quiet}
        scores = score({"gaussians": drawn, "real": real}, **given)
        out.mkdir(parents=True, exist_ok=True)
        (out / "baselines.json").write_text(json.dumps(scores, indent=1) + "\n")
    print(
        f"wrote {out}: FID {scores['gaussians']['fid']:.3g} of class Gaussians, {scores['real']['fid']:.3g} of real images"
    )


def score(
    sets: dict,
    *,
    data: Path,
    judge: Path,
    entry: dict,
    root: Path | None,
    part: "Part",
    quiet: bool,
    protocols: dict[str, str] | None = None,
    how: str = "",
) -> dict:
    """The numbers of named images, see evaluation/quality.py; protocols: {name: protocol}, "ours" where none is named; how:
    what the protocol is to say of how they were generated. label_consistency is None where the images have no classes."""
    from functools import cache

    import numpy as np

    from advebm import networks
    from advebm.data import images
    from advebm.evaluation import features
    from advebm.evaluation import quality as q
    from advebm.runtime import progress, state

    def joined(*sets: images.Images) -> images.Images:
        return images.Images(*(np.concatenate(parts) for parts in zip(*sets, strict=True)))

    spec = config.build(q.Quality, entry["quality"])
    net, _ = networks.load(judge, networks.device(), shape=about(data)["shape"])

    def bar(name: str):
        return progress.bar(f"quality {name}", quiet)

    using = features.network(
        spec, net, net.shape[0], project.data_root(root), cache=state.features(spec.features).part, bar=bar
    )
    wanted = spec.reference_images or max((len(s.x) for s in sets.values()), default=0)
    split = images.load(data / f"{spec.reference}.npz")
    if spec.reference == "train" and wanted > len(split.x):  # all published training images
        split = joined(split, images.load(data / "validation.npz"))

    @cache
    def reference(m: int) -> q.Reference:
        return q.reference(split, m, using)

    def everything() -> q.Reference:
        whole = joined(*(images.load(data / f"{which}.npz") for which in ("train", "validation", "test")))
        m = spec.reference_images or len(whole.x)
        return q.Reference(whole[np.arange(m) * len(whole.x) // m], using)

    result = {}
    for name, content in sets.items():
        named = (protocols or {}).get(name, "ours")
        if named == "jempp-buffer":
            against = everything()
            content = content[: len(against.images.x)]
        else:
            content = content if spec.reference_images else content[: len(split.x)]
            against = reference(spec.reference_images or len(content.x))
        numbers = q.fidelity(content, against, spec, using, name=name, part=part)
        numbers["label_consistency"] = None if content.y is None else q.label_consistency(net, content)
        distinct = len({x.tobytes() for x in content.x})
        result[name] = numbers | {"protocol": q.protocol(spec, named, numbers, distinct, how)}
    return result
