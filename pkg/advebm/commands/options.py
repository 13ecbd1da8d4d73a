"""The options that several commands share."""

import os
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

THROWN_AWAY = "ADVEBM_OUT"  # set in ranks that do not lead: the folder of their outputs, which are discarded


def _own(out: Path) -> Path:
    return Path(os.environ[THROWN_AWAY], out.name) if THROWN_AWAY in os.environ else out


Study = Annotated[str, Option(help="study: an entry of the params file")]
Params = Annotated[Path, Option(help="the params file")]
Method = Annotated[str, Argument(help="method: an entry of the study's models")]
Prepared = Annotated[Path, Option("--data", help="folder that `prepare` wrote")]
GaussiansFile = Annotated[Path, Option("--gaussians", help="file that `gaussians` wrote")]
ModelFile = Annotated[Path, Option("--model", help="model that `train` wrote (.safetensors)")]
Judge = Annotated[Path, Option(help="model of the judge (.safetensors)")]
OutFolder = Annotated[Path, Option(help="folder to write", callback=_own)]
OutFile = Annotated[Path, Option(help="file to write", callback=_own)]
NumbersFile = Annotated[Path, Option(help="JSON file to write; Markdown of the same name is written too")]
ReportFile = Annotated[
    Path, Option(help="JSON file to write; Markdown, web page and .metrics.json of the same name are written too")
]
Methods = Annotated[list[str] | None, Option("--method", help="a method, may be repeated [default: all]")]
Changes = Annotated[
    list[str] | None, Option("--set", help="KEY=VALUE to set in each method's entry, such as training.optimizer.lr=0.1")
]
Samples = Annotated[Path, Option("--samples", help="folder that `sample` wrote")]
Baselines = Annotated[Path, Option("--baselines", help="folder that `baselines` wrote")]
WarmFolder = Annotated[
    Path | None, Option("--warm", help="folder that `train warm` wrote, for models with `warm: true`, which start from it")
]
Seed = Annotated[int, Option(min=0, help="seed of all random numbers")]
Quiet = Annotated[bool, Option("--quiet", "-q", help="no progress bar")]
Root = Annotated[
    Path | None, Option(help="folder of data sets and Inception's weights [default: ADVEBM_DATA, or data/raw]")
]
PARAMS = Path("params.yaml")
