"""Take over a DVC experiment."""

import logging
from typing import Annotated

from typer import Argument

from advebm.runtime.experiments import repository


def adopt(experiment: Annotated[str, Argument(help="its name, see `dvc exp show`")]) -> None:
    """Put an experiment's params, lock files and results into this tree.

    `dvc exp apply` does the same, but ends with an error where a stage has never run, such as those of other methods.
    """
    from dvc.exceptions import DvcException

    for name in ("dvc", "dvc_data"):
        logging.getLogger(name).setLevel(logging.ERROR)  # a warning for each output of a stage that has never run
    with repository() as repo:
        try:
            repo.experiments.apply(experiment, allow_missing=True)
        except DvcException as error:
            raise ValueError(f"{error} `dvc exp show` lists them") from error
    print(f"{experiment} is in this tree: see git diff; back: git checkout . && dvc checkout --allow-missing")
