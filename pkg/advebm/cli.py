"""The console command `advebm`."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from tempfile import TemporaryDirectory

import typer
from typer.exceptions import TyperException

from advebm.commands import measure, options
from advebm.commands.away import away, receive
from advebm.commands.baselines import baselines
from advebm.commands.bench import bench
from advebm.commands.gaussians import gaussians
from advebm.commands.headline import headline
from advebm.commands.info import check, info
from advebm.commands.prepare import prepare
from advebm.commands.report import compare, report
from advebm.commands.sample import sample
from advebm.commands.stability import stability
from advebm.commands.steps import steps
from advebm.commands.summary import summary
from advebm.commands.sweep import sweep
from advebm.commands.sync import sync
from advebm.commands.toy2d import toy2d
from advebm.commands.train import train
from advebm.evaluation import MEASUREMENTS
from advebm.runtime.signals import Stopped

COMMANDS: dict[str, Callable] = {
    **{f.__name__: f for f in (check, prepare, gaussians, train, sample, baselines)},
    **measure.commands(),
    **{f.__name__: f for f in (report, compare, steps, headline, summary, sweep)},
    **{f.__name__: f for f in (stability, bench, sync, away, receive, toy2d, info)},
}

SHARED = ("train", "sample", *(name for name, m in MEASUREMENTS.items() if m.shared))  # by several processes

app = typer.Typer(
    help="Energy-based models trained with adversarial training.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
for name, command in COMMANDS.items():
    app.command(name)(command)


def run(app: Callable[..., int | None], name: str) -> None:
    """Call the application, which is a command of that name, with threads that wait asleep after a short while, or two
    experiments on the same cores would hold each other up; a mistake is one line and exit code 2, what the machine or the
    training does is 1, and a signal is 128 and its number."""
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")  # read when torch is imported, which the commands do
    try:
        with _together(name):
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
    except Stopped as error:
        _fail(error, error.code)
    if code:  # Ctrl-C before a command's own handler
        sys.exit(code)


@contextmanager
def _together(name: str) -> Iterator[None]:
    """In this block the process shares the work with the others that torchrun started, if it was started so: the leader
    writes and tracks, what the others write goes to a folder that is thrown away. A command that cannot be shared is the
    leader's alone."""
    if "RANK" not in os.environ or (name not in SHARED and os.environ["RANK"] == "0"):
        yield
        return
    if name not in SHARED:
        sys.exit(0)
    from advebm.runtime import ranks

    with ranks.joined(), TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        if ranks.rank() == 0:
            yield
            return
        os.environ |= {"ADVEBM_TRACKING": "off", options.THROWN_AWAY: folder}
        with redirect_stdout(nowhere):
            yield


def _fail(error: object, code: int) -> None:
    if os.environ.get("RANK", "0") != "0" and code != 1:  # the leader tells of what all met, a mistake or a signal
        sys.exit(code)
    print(f"advebm: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(code)


def main() -> None:
    run(app, sys.argv[1] if len(sys.argv) > 1 else "")
