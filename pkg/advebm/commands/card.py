"""A trained model as a folder to share."""

import re
from pathlib import Path
from typing import Annotated

from typer import Option

from advebm import config
from advebm.commands import options as o


def card(
    method: o.Method,
    out: o.OutFolder,
    repo: Annotated[str | None, Option(help="OWNER/NAME on the Hugging Face Hub, for the example on the card")] = None,
    licence: Annotated[str, Option(help="licence of the weights, as the Hub names it")] = "mit",
    results: Annotated[Path | None, Option(help="folder of the method's results [default: results/STUDY/METHOD]")] = None,
    model: Annotated[
        Path | None, Option(help="model that `train` wrote [default: models/STUDY/METHOD/model.safetensors]")
    ] = None,
    gaussians: Annotated[
        Path | None, Option(help="file that `gaussians` wrote [default: in the model's folder or beside that]")
    ] = None,
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
) -> None:
    """Write a trained model as a folder to share, for the Hugging Face Hub or a release: its weights, class Gaussians where
    it needs them, pictures, numbers, a model card (README.md), and the digests of all. `advebm.load` loads it."""
    entry = config.read(params, study, method)
    if repo is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise ValueError(f"--repo {repo}: must be OWNER/NAME")
    from advebm import api
    from advebm.data.images import digest
    from advebm.reports import card as cards
    from advebm.reports.method import numbers
    from advebm.reports.page import captions
    from advebm.reports.results import measured
    from advebm.runtime import disk

    results, model = results or Path("results", study, method), model or Path("models", study, method, "model.safetensors")
    loaded = api.load(model, gaussians=gaussians)
    about, folder = dict(loaded.about), loaded.file.parent
    if (about["study"], about["method"]) != (study, method):
        raise ValueError(f"{model}: is {about['method']} of study {about['study']}, not {method} of {study}")
    found = measured(results, folder)
    start = loaded.gaussians if any(recipe.start in ("gaussians", "pca") for recipe in loaded.recipes.values()) else None

    weights = ["model.safetensors"]
    disk.clear(out / "pictures", "*.png")
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    disk.write(out / weights[0], loaded.file.read_bytes())
    if start is not None:
        start.save(out / api.NAME)
        weights.append(api.NAME)
    disk.write_json(out / "config.json", about)
    disk.write_json(out / "report.json", numbers(found))
    pictures = {}
    for path, caption in captions(found, results, folder).items():
        if path.is_file():
            name = f"pictures/samples_{path.name}" if path.parent.name == "pictures" else f"pictures/{path.name}"
            disk.write(out / name, path.read_bytes())
            pictures[name] = caption
    text = cards.card(
        cards.Card(
            about=about,
            parameters=sum(p.numel() for p in loaded.net.parameters()),
            recipes=loaded.recipes,
            entry=entry,
            found=found,
            pictures=dict(sorted(pictures.items(), key=lambda item: "/samples_" not in item[0])),
            digests={name: digest(out / name) for name in weights},
            licence=licence,
            repo=repo,
        )
    )
    disk.write(out / "README.md", text.encode())
    written = sorted([*weights, *pictures, "README.md", "config.json", "report.json"])
    disk.write(out / "SHA256SUMS", "".join(f"{digest(out / name)}  {name}\n" for name in written).encode())
    unknown = cards.source(entry["data"]["source"]).licence == cards.UNKNOWN
    print(f"wrote {out}/README.md" + (f"; add to it the licence of {entry['data']['source']}" if unknown else ""))
