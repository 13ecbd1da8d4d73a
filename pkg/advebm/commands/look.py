"""What costs little to measure."""

from pathlib import Path
from typing import Annotated

from typer import Option

from advebm.commands import options as o
from advebm.commands.calibration import calibration
from advebm.commands.interpolation import interpolation
from advebm.commands.landscape import landscape
from advebm.commands.neighbours import neighbours


def look(
    method: o.Method,
    samples: Annotated[Path, Option(help="folder that `sample` wrote")],
    model: o.ModelFile,
    data: o.Prepared,
    gaussians: o.GaussiansFile,
    out: o.OutFolder,
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
    quiet: o.Quiet = False,
) -> None:
    """Calibration, energy landscape, nearest neighbours and interpolation: the commands of these names, one by one."""
    general = {"study": study, "params": params, "quiet": quiet}
    calibration(method, model, data, out, **general)
    landscape(method, model, data, out, **general)
    neighbours(method, samples, model, data, out, **general)
    interpolation(method, model, data, gaussians, out, **general)
