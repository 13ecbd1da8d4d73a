"""Sample quality."""

from pathlib import Path
from typing import Annotated

from typer import Option

from advebm import config
from advebm.commands import options as o
from advebm.commands.baselines import Root, score
from advebm.commands.measuring import keep, resumable
from advebm.commands.sample import sampled
from advebm.runtime.disk import read_json


def quality(
    method: o.Method,
    samples: Annotated[Path, Option(help="folder that `sample` wrote")],
    model: o.ModelFile,
    data: o.Prepared,
    judge: o.Judge,
    baselines: Annotated[Path, Option(help="folder that `baselines` wrote")],
    out: o.OutFile,
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
    root: Root = None,
    quiet: o.Quiet = False,
) -> None:
    """FID, KID, Inception Score, precision, recall and label consistency of the samples of each recipe, and of the replay
    buffer that lies beside the model, where there is one."""
    entry = config.read(params, study, method)
    from advebm import networks
    from advebm.data import images
    from advebm.evaluation.quality import Quality, confident

    spec = config.build(Quality, entry["quality"])
    ends = read_json(baselines / "baselines.json", "baselines")
    recipes = config.recipes(entry, method)
    sets = sampled(samples, recipes)
    protocols = {name: "atebm" for name, recipe in recipes.items() if recipe.start == "outliers"}
    buffer = model.with_name("replay_buffer.npz")
    net, header = networks.load(model, networks.device())
    if spec.buffer and buffer.is_file():
        sets["replay_buffer"] = confident(net, images.load(buffer), entry["samples"])
        protocols["replay_buffer"] = "jempp-buffer"
    files = [judge, *(samples / f"{name}.npz" for name in recipes), *([buffer] if "replay_buffer" in sets else [])]
    with resumable("quality", out, entry, method, model, data, *map(images.digest, files)) as state:
        given = {"data": data, "judge": judge, "entry": entry, "root": root, "part": state.part, "quiet": quiet}
        scores = score(sets, protocols=protocols, how=generated(entry["precision"], header), **given)
        with keep("quality", out, {**scores, "baselines": ends}, entry, study, method, model) as run:
            for name, values in scores.items():
                run.metrics({f"quality/{name}/{key}": v for key, v in values.items() if not isinstance(v, str | list)})
    print(f"wrote {out}: " + ", ".join(f"{name} FID {values['fid']:.3g}" for name, values in scores.items()))


def generated(precision: str, header: dict) -> str:
    """What a protocol says of how samples were generated, where that is not in float32 and in evaluation mode."""
    parts = {f"in {precision}": precision != "fp32", "on batch statistics": header.get("statistics") == "batch"}
    return ", ".join(said for said, so in parts.items() if so)
