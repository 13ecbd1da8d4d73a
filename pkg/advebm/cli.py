"""The console command `advebm`."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from tempfile import TemporaryDirectory

import typer
from typer.exceptions import TyperException

from advebm.commands import measure, options
from advebm.commands.adopt import adopt
from advebm.commands.apply import apply
from advebm.commands.away import away, receive
from advebm.commands.baselines import baselines
from advebm.commands.bench import bench
from advebm.commands.card import card
from advebm.commands.export import export
from advebm.commands.fid import fid
from advebm.commands.gaussians import gaussians
from advebm.commands.headline import headline
from advebm.commands.info import check, info
from advebm.commands.launch import job, launch
from advebm.commands.prepare import prepare
from advebm.commands.promote import promote
from advebm.commands.report import compare, report
from advebm.commands.sample import sample
from advebm.commands.score import score
from advebm.commands.sources import sources
from advebm.commands.stability import stability
from advebm.commands.steps import steps
from advebm.commands.summary import summary
from advebm.commands.sweep import sweep
from advebm.commands.sync import sync
from advebm.commands.toy2d import toy2d
from advebm.commands.train import train
from advebm.evaluation import MEASUREMENTS
from advebm.runtime import extras
from advebm.runtime.signals import Stopped

COMMANDS: dict[str, Callable] = {
    **{f.__name__: f for f in (check, sources, prepare, gaussians, train, sample, baselines)},
    **measure.commands(),
    **{f.__name__: f for f in (report, compare, steps, headline, summary, sweep, score, fid, card, export)},
    **{f.__name__: f for f in (adopt, launch, job, stability, bench, sync, promote, away, receive, toy2d, info)},
}

FAILURES = ("Diverged", "MemoryError", "OutOfMemoryError", "SafetensorError")  # of training, or of the machine
WAIT = 5  # seconds in which the leader reports a mistake that another rank has met

# commands that several processes can share
SHARED = ("train", "sample", *(name for name, m in MEASUREMENTS.items() if m.shared))

app = typer.Typer(
    help="Energy-based models trained with adversarial training.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
for name, command in COMMANDS.items():
    app.command(name)(command)
app.add_typer(apply, name="apply")


def run(app: Callable[..., int | None], name: str) -> None:
    """Run the application, which is the command of that name. A user's mistake prints one line and exits with 2, an
    error of the machine or of training exits with 1, and a signal exits with 128 plus its number."""
    _open_streams()
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # threads soon sleep while idle, or experiments would slow each other
    try:
        with extras.named(), _together(name):
            code = app(standalone_mode=False)
    except TyperException as error:
        _fail(f"{error.format_message()} (see --help)", 2)
    except (ValueError, FileNotFoundError, extras.Missing) as error:
        _fail(error, 2)
    except OSError as error:
        _fail(error, 1)
    except Exception as error:
        if type(error).__name__ not in FAILURES and not type(error).__module__.startswith("mlflow."):
            raise  # a bug: show its traceback
        _fail(str(error) or "not enough memory", 1, everywhere=type(error).__name__ == "Diverged")
    except Stopped as error:
        _fail(error, error.code)
    if code:  # also of Ctrl-C before the command handles signals
        sys.exit(code)


@contextmanager
def _together(name: str) -> Iterator[None]:
    """Within this block the process is one of the ranks that torchrun started, if it did. The leader writes and tracks;
    the outputs of other ranks are discarded. Only the leader runs a command that cannot be shared."""
    if "RANK" not in os.environ or (name not in SHARED and os.environ["RANK"] == "0"):
        yield
        return
    if name not in SHARED:
        sys.exit(0)
    from advebm.runtime import ranks

    with ranks.joined(), TemporaryDirectory() as folder, open(os.devnull, "w") as null:
        if ranks.rank() == 0:
            yield
            return
        os.environ |= {"ADVEBM_TRACKING": "off", options.THROWN_AWAY: folder}
        with redirect_stdout(null):
            yield


def _open_streams() -> None:
    """Open closed standard streams, on nothing: a file opened later would take their place, and get what is printed. What
    the encoding of standard output lacks is printed as a question mark."""
    while (number := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(number)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]


def _fail(error: object, code: int, *, everywhere: bool = False) -> None:
    if os.environ.get("RANK", "0") != "0" and (code != 1 or everywhere):
        if code > 2:  # a signal, which the leader gets as well
            sys.exit(code)
        time.sleep(WAIT)  # the leader reports a mistake that all ranks meet, and this one is ended then
    print(f"advebm: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(code)


def main() -> None:
    run(app, sys.argv[1] if len(sys.argv) > 1 else "")
