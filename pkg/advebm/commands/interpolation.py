"""Interpolation between samples."""

from advebm import config
from advebm.commands import options as o
from advebm.commands.measuring import keep
from advebm.commands.prepare import about
from advebm.commands.sample import generator


def interpolation(
    method: o.Method,
    model: o.ModelFile,
    data: o.Prepared,
    gaussians: o.GaussiansFile,
    out: o.OutFolder,
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
    quiet: o.Quiet = False,
) -> None:
    """Rows of images from sample to sample, made by each recipe of the method from starts between theirs.

    Writes interpolation.json and interpolation.png.
    """
    entry = config.read(params, study, method)
    from advebm import figures, progress
    from advebm.evaluation import interpolation as evaluation
    from advebm.evaluation.parts import SEED
    from advebm.networks import device
    from advebm.networks.passes import Passes

    spec = config.build(evaluation.Interpolation, entry["interpolation"])
    recipes = config.recipes(entry, method)
    net, starts = generator(recipes, f"{study}.sampling.{method}", model, data, gaussians)
    numbers, pictures = evaluation.interpolation(
        net,
        recipes,
        starts,
        about(data)["classes"],
        spec,
        Passes.on(device(), entry["precision"]),
        seed=SEED,
        progress=progress.bar(f"interpolation {study}/{method}", quiet),
    )
    with keep("interpolation", out / "interpolation.json", numbers, entry, study, method, model) as run:
        run.metrics({f"interpolation/{name}/smoothness": v["smoothness"] for name, v in numbers.items()})
        run.artifact(figures.rows(pictures, out / "interpolation.png", f"{study} {method}"), "interpolation")
    told = (f"{n} {'no start' if v['smoothness'] is None else round(v['smoothness'], 3)}" for n, v in numbers.items())
    print(f"wrote {out}: " + (", ".join(told) or "no recipes"))
