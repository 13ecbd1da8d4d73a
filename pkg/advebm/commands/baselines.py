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


def score(sets: dict, *, data: Path, judge: Path, entry: dict, cache: Path, root: Path | None, quiet: bool) -> dict:
    """{name: {fid, kid_mean, is_mean, is_std, label_consistency, n, protocol}} of named images.

    label_consistency is None where the images have no classes.
    """
    import numpy as np

    from advebm import networks, progress
    from advebm.data import images
    from advebm.evaluation import quality as q

    spec = config.build(q.Quality, entry["quality"])
    described = about(data)
    net, _ = networks.load(judge, networks.device(), shape=described["shape"])
    reference = images.load(data / f"{spec.reference}.npz").x
    wanted = spec.reference_images or max((len(s.x) for s in sets.values()), default=0)
    if spec.reference == "train" and wanted > len(reference):  # all published training images
        reference = np.concatenate([reference, images.load(data / "validation.npz").x])
    options = q.extractor(spec, net, net.shape[0], data_root(root, entry))
    key = f"{spec.reference}-{described['sha256'][:16]}"
    result = {}
    for name in progress.bar("quality", quiet)(list(sets)):
        content = sets[name][: len(reference)]
        result[name] = {
            **q.fidelity(
                content.x, reference, spec, options, key=key, cache=cache, quiet=quiet or spec.features == "judge"
            ),
            "label_consistency": None if content.y is None else q.label_consistency(net, content),
            "protocol": q.protocol(spec, len(content.x)),
        }
    return result
