"""Interpolation between samples."""

import json

from advebm import config
from advebm.commands import options as o
from advebm.commands.prepare import about
from advebm.commands.sample import start_images


def interpolation(
    method: o.Method,
    model: o.ModelFile,
    data: o.Prepared,
    gaussians: o.GaussiansFile,
    out: o.OutFolder,
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
    batch: o.Batch = 500,
    quiet: o.Quiet = False,
) -> None:
    """Rows of images from sample to sample, made by each recipe of the method from starts between theirs.

    Writes interpolation.json and interpolation.png.
    """
    entry = config.read(params, study, method)
    described = about(data)
    from advebm import figures, networks, progress, tracking
    from advebm.data import images
    from advebm.data.gaussians import Gaussians
    from advebm.evaluation import interpolation as evaluation

    spec = config.build(evaluation.Interpolation, entry["interpolation"])
    recipes = config.recipes(entry, method)
    net, _ = networks.load(model, networks.device(), shape=described["shape"])
    outliers = images.load(data / "outliers.npz") if any(r.start == "outliers" for r in recipes.values()) else None
    numbers, pictures = evaluation.interpolation(
        net,
        recipes,
        start_images(Gaussians.load(gaussians, networks.device()), outliers),
        described["classes"],
        spec,
        seed=o.EVALUATION_SEED,
        batch=batch,
        progress=progress.bar(f"interpolation {study}/{method}", quiet),
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / "interpolation.json").write_text(json.dumps(numbers, indent=1) + "\n")
    protocol = config.stage_specs(entry, method)["interpolation"]
    with tracking.run(
        stage="interpolation", study=study, method=method, checkpoint=images.digest(model), spec=protocol
    ) as run:
        run.metrics({f"interpolation/{name}/smoothness": v["smoothness"] for name, v in numbers.items()})
        run.artifact(figures.rows(pictures, out / "interpolation.png", f"{study} {method}"), "interpolation")
    told = (f"{n} {'no start' if v['smoothness'] is None else round(v['smoothness'], 3)}" for n, v in numbers.items())
    print(f"wrote {out}: " + (", ".join(told) or "no recipes"))
