"""A study on a machine without DVC, MLflow and git, and its results taken home."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument

from advebm import config
from advebm.commands import options as o
from advebm.commands.info import check
from advebm.runtime import project

if TYPE_CHECKING:
    from advebm.away.pieces import Piece


def away(
    study: Annotated[str, Argument(help="study: an entry of params.yaml")],
    seconds: Annotated[float, Argument(min=1, help="how long a piece is")],
    methods: Annotated[list[str], Argument(help="methods of the study, the most wanted first")],
) -> int:
    """Run all stages of some methods without DVC, from data to report and comparison, in pieces: exit code 75 says that it
    is to be run again, 128 and its number that a signal came. Where a stage fails, those that do not depend on it are run
    before its exit code is returned. What is done by then is packed in away/STUDY/, for `advebm receive` at home.

    Reads dvc.yaml and params.yaml of the current folder and writes where DVC's stages write.
    """
    from advebm.away import pieces, pipeline

    with pipeline.alone("state/away"):
        return begin(study, pieces.Piece(seconds), list(dict.fromkeys(methods)))


def begin(study: str, piece: "Piece", methods: list[str]) -> int:
    """`away`, where no other process does the same here."""
    from advebm.away import pieces, pipeline

    config.check_top(o.PARAMS)
    content = config.read_yaml(o.PARAMS)
    for method in methods:
        if method not in content["methods"]:
            raise ValueError(f"{o.PARAMS}: no method {method!r} in methods; there are {', '.join(content['methods'])}")
        check(method, study)
    weights(config.read(o.PARAMS, study)["quality"])
    known = pipeline.read(study, methods[0], methods, content["seed"])
    stages = list(pipeline.ordered(known, pieces.order(methods)))
    try:
        return pieces.run(study, stages, piece)
    finally:
        parts = pieces.pack(study, stages)
        print(f"packed {len(parts)} files; at home: advebm receive {parts[0].parent}/part-*.tar", flush=True)


def weights(quality: dict[str, Any]) -> None:
    """Raises FileNotFoundError where images are to be scored by Inception, and its weights are not here."""
    if quality["features"] != "inception":
        return
    import torch

    from advebm.evaluation.quality import Quality

    name = config.build(Quality, quality).inception
    kept = Path(torch.hub.get_dir(), "checkpoints", name)  # where torch-fidelity leaves what it has downloaded
    if not (project.data_root() / name).is_file() and not kept.is_file():
        raise FileNotFoundError(f"{project.data_root() / name}: Inception's weights are not there; see data/README.md")


def receive(parts: Annotated[list[Path], Argument(help="files that `advebm away` wrote, all or some")]) -> None:
    """Unpack what stages wrote on another machine, let DVC take them for done, and tell MLflow.

    Data and class Gaussians are made here first, by `dvc repro gaussians`, and must be those that were used there. A stage
    is taken for done where its command and all that it depends on are here as they were there, and all that it wrote has
    come; where it will run here, files that are here already stay as they are. Nothing is written unless all parts are
    whole, and no stage is writing here what they hold.
    """
    from advebm.away import home

    home.receive(parts)
