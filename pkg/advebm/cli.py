"""The console command `advebm`."""

import os
import sys
from collections.abc import Callable

import typer
from typer.exceptions import TyperException

from advebm.commands.autoattack import autoattack
from advebm.commands.baselines import baselines
from advebm.commands.calibration import calibration
from advebm.commands.compare import compare
from advebm.commands.fisher import fisher
from advebm.commands.gaussians import gaussians
from advebm.commands.info import check, info
from advebm.commands.interpolation import interpolation
from advebm.commands.landscape import landscape
from advebm.commands.look import look
from advebm.commands.neighbours import neighbours
from advebm.commands.ood import ood
from advebm.commands.prepare import prepare
from advebm.commands.quality import quality
from advebm.commands.report import report
from advebm.commands.robustness import robustness
from advebm.commands.sample import sample
from advebm.commands.stability import stability
from advebm.commands.summary import summary
from advebm.commands.sweep import sweep
from advebm.commands.sync import sync
from advebm.commands.toy2d import toy2d
from advebm.commands.train import train

COMMANDS: dict[str, Callable] = {
    f.__name__: f
    for f in (
        *(check, prepare, gaussians, train, sample, baselines, quality, ood, robustness, autoattack),
        *(fisher, calibration, landscape, neighbours, interpolation, look, report, compare),
        *(summary, sweep, stability, sync, toy2d, info),
    )
}

app = typer.Typer(
    help="Energy-based models trained with adversarial training.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in COMMANDS.values():
    app.command()(command)


def run(app: Callable[..., object]) -> None:
    """Call the application, with threads that wait asleep after a short while, or two experiments on the same cores would
    hold each other up; a mistake is one line and exit code 2, what the machine or the training does is 1, and a
    signal is 128 and its number."""
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # read when torch is imported, which the commands do
    try:
        code = app(standalone_mode=False)
    except TyperException as error:
        _fail(f"{error.format_message()} (--help says what there is)", 2)
    except (ValueError, FileNotFoundError) as error:
        _fail(error, 2)
    except OSError as error:
        _fail(error, 1)
    except Exception as error:
        ours = type(error).__name__ == "Diverged" or type(error).__module__.startswith("mlflow.")
        if not ours:  # a defect of this program: its traceback is wanted
            raise
        _fail(error, 1)
    except BaseException as error:
        if type(error).__name__ != "Stopped":
            raise
        _fail(error, error.code)
    if code:  # Ctrl-C before a command's own handler
        sys.exit(code)


def _fail(error: object, code: int) -> None:
    print(f"advebm: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(code)


def main() -> None:
    run(app)
