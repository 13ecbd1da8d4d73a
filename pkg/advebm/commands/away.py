"""Run a study on a machine without DVC, MLflow and git, and receive its results at home."""

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from advebm import config
from advebm.commands import options as o
from advebm.commands.info import check
from advebm.runtime import project


def away(
    study: Annotated[str, Argument(help="study: an entry of params.yaml")],
    seconds: Annotated[float, Argument(min=1, help="seconds that this piece may take")],
    methods: Annotated[list[str], Argument(help="methods of the study, in order of priority")],
    jobs: Annotated[int, Option(min=1, help="stages to run at a time; what each prints is then in a file")] = 1,
) -> int:
    """Run all stages of some methods without DVC, from data to report and comparison, in pieces of limited time.

    The exit code is 75 if the time is over: run the same command again. It is 128 plus a signal's number if a signal
    stopped it, and that of the stage if one failed; stages that do not depend on a failed one are run all the same. What is
    complete is packed in away/STUDY/, for `advebm receive` at home.

    Reads dvc.yaml and params.yaml of the current folder and writes where DVC's stages write.
    """
    from advebm.away import pieces, pipeline

    with project.locked(Path("state/away")):
        piece, methods = pieces.Piece(seconds), list(dict.fromkeys(methods))
        config.check_top(o.PARAMS)
        content = config.read_yaml(o.PARAMS)
        for method in methods:
            if method not in content["methods"]:
                known = ", ".join(content["methods"])
                raise ValueError(f"{o.PARAMS}: no method {method!r} in methods; there are {known}")
            check(method, study)
        weights(config.read(o.PARAMS, study))
        by_name = pipeline.read(study, methods[0], methods, content["seed"])
        stages = list(pipeline.ordered(by_name, pieces.order(methods)))
        try:
            return pieces.run(study, stages, piece, jobs, pieces.Packing(study, stages))
        finally:
            parts = pieces.pack(study, stages)
            print(f"packed {len(parts)} files; at home: advebm receive {parts[0].parent}/part-*.tar", flush=True)


def weights(entry: dict[str, Any]) -> None:
    """Raise FileNotFoundError if a study compares features of Inception and its weights are missing."""
    measured = [entry.get(name) or {} for name in ("quality", "neighbours", "applications")]
    using = [spec for spec in measured if spec.get("features") == "inception"]
    if not using:
        return
    from advebm.evaluation.features import Features, inception_weights

    for spec in using:
        own = Features(features="inception", inception=spec.get("inception", Features.inception))
        if not inception_weights(own, project.data_root()).exists():
            raise FileNotFoundError(
                f"{project.data_root() / own.inception}: Inception's weights are missing; see data/README.md"
            )


def receive(parts: Annotated[list[Path], Argument(help="all or some of the files that `advebm away` wrote")]) -> None:
    """Unpack what stages wrote on another machine, commit it to DVC and send it to MLflow.

    Data and class Gaussians are first made here, by `dvc repro gaussians`, and must match those used there. A stage is
    committed if its command and inputs are the same here as there and all its outputs were received; otherwise its files
    that exist here are kept. Nothing is written if a part is damaged or another process is writing the same outputs.
    """
    from advebm.away import home

    home.receive(parts)
