"""The two ends of the scale of sample quality."""

import json
from pathlib import Path
from typing import Annotated

from typer import Option

from advebm import config
from advebm.commands import options as o
from advebm.commands.prepare import about, data_root

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
    """Score the class Gaussians and held-out real images as samples are scored; keep the features of the reference."""
    entry = config.read(params, study)
    import torch

    from advebm import networks
    from advebm.data import images
    from advebm.data.gaussians import Gaussians
    from advebm.samplers.streams import Streams

    fitted = Gaussians.load(gaussians)
    n = entry["samples"]
    ids = torch.arange(n)
    y = ids % about(data)["classes"]
    parts = [fitted.sample(y[i], Streams(o.EVALUATION_SEED, "baselines", ids=i)) for i in ids.split(500)]
    drawn = images.Images(images.to_bytes(torch.cat(parts)), y.numpy())
    held_out = "validation" if entry["quality"].get("reference") == "test" else "test"
    real = images.load(data / f"{held_out}.npz")[:n]
    networks.load(judge)  # a damaged judge is told before anything is computed
    scores = score(
        {"gaussians": drawn, "real": real}, data=data, judge=judge, entry=entry, cache=out, root=root, quiet=quiet
    )
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
    cache: Path,
    root: Path | None,
    quiet: bool,
    protocols: dict[str, str] | None = None,
) -> dict:
    """The numbers of named images, see evaluation/quality.py; protocols: {name: protocol}, "ours" where none is named.

    label_consistency is None where the images have no classes.
    """
    import numpy as np

    from advebm import networks, progress
    from advebm.data import images
    from advebm.evaluation import quality as q

    def joined(*sets: images.Images) -> images.Images:
        return images.Images(*(np.concatenate(parts) for parts in zip(*sets, strict=True)))

    spec = config.build(q.Quality, entry["quality"])
    described = about(data)
    net, _ = networks.load(judge, networks.device(), shape=described["shape"])
    using = q.network(spec, net, net.shape[0], data_root(root, entry), cache, quiet or spec.features == "judge")
    wanted = spec.reference_images or max((len(s.x) for s in sets.values()), default=0)
    split = images.load(data / f"{spec.reference}.npz")
    if spec.reference == "train" and wanted > len(split.x):  # all published training images
        split = joined(split, images.load(data / "validation.npz"))
    result = {}
    for name in progress.bar("quality", quiet)(list(sets)):
        named, reference, m = (protocols or {}).get(name, "ours"), split, None
        if named == "jempp-buffer":
            reference = joined(*(images.load(data / f"{part}.npz") for part in ("train", "validation", "test")))
            m = spec.reference_images or len(reference.x)
            reference = reference[np.arange(m) * len(reference.x) // m]
        content = sets[name][: len(reference.x)]
        key = f"{named}-{spec.reference}-{described['sha256'][:16]}"
        numbers = q.fidelity(content, reference, spec, using, key=key, m=m)
        numbers["label_consistency"] = None if content.y is None else q.label_consistency(net, content)
        result[name] = numbers | {"protocol": q.protocol(spec, named, numbers)}
    return result
