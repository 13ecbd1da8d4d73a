"""The two ends of the scale of sample quality."""

from advebm import config
from advebm.commands import options as o
from advebm.runtime import project


def baselines(
    data: o.Prepared,
    gaussians: o.GaussiansFile,
    judge: o.Judge,
    out: o.OutFolder,
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
    root: o.Root = None,
    quiet: o.Quiet = False,
) -> None:
    """Score class Gaussians and held-out real images in the same way as samples."""
    entry = config.read(params, study)
    import torch

    from advebm.data import images
    from advebm.data.gaussians import Gaussians
    from advebm.evaluation.quality import Baselines, Quality, score
    from advebm.evaluation.subject import Surroundings
    from advebm.runtime import disk, progress, state
    from advebm.runtime.parts import BATCH, SEED
    from advebm.samplers.streams import Streams

    around = Surroundings(
        data=data, judge=judge, root=project.data_root(root), bar=lambda name: progress.bar(f"quality {name}", quiet)
    )
    spec, n = config.build(Quality, entry["quality"]), entry["samples"]
    fitted = Gaussians.load(gaussians, about=around.about)
    around.load_judge()  # report a wrong one before computing anything
    ids = torch.arange(n)
    y = ids % around.about["classes"]
    parts = [fitted.sample(y[i], Streams(SEED, "baselines", ids=i)) for i in ids.split(BATCH)]
    drawn = images.Images(images.to_bytes(torch.cat(parts)), y.numpy())
    held_out = "validation" if spec.reference == "test" else "test"
    key = [entry["quality"], n, around.about["sha256"], images.digest(gaussians), images.digest(judge)]
    with state.opened("baselines", out, key, __name__) as opened:
        sets = {"gaussians": drawn, "real": around.images(held_out)[:n]}
        scores = score(sets, spec, around, part=opened.part)
        disk.write_json(out / "baselines.json", Baselines(named=scores).json(), sealed=True)
    print(f"wrote {out}: FID {scores['gaussians'].fid:.3g} of class Gaussians, {scores['real'].fid:.3g} of real images")
