"""What every stage runs: `python3 stages/run.py COMMAND ...` is `advebm COMMAND ...` with the code of this tree.

DVC runs queued experiments in a copy of the tree, while an editable install points to the original: so the copy's pkg/
is put first on the path. A command that several processes can share is run by launch.processes processes. Where `python3`
is not the one of the project's environment, as in `.venv/bin/dvc repro`, this script is run again by `.venv/bin/python`.
If DVC is killed, the stage is stopped and keeps its state: DVC would delete what it goes on to write.
"""

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

TREE = Path(__file__).resolve().parents[1]

if not (find_spec("torch") and find_spec("typer")):
    OWN = Path(os.environ.get("DVC_ROOT", TREE), ".venv", "bin", "python")
    if OWN.is_file() and not os.path.samefile(sys.prefix, OWN.parents[1]):
        os.execv(OWN, [str(OWN), *sys.argv])
    print(
        f"advebm: {sys.executable} lacks the packages: run `make install`, or activate their environment", file=sys.stderr
    )
    sys.exit(2)

sys.path.insert(0, str(TREE / "pkg"))


def stage(name: str) -> None:
    """Run the command of that name with the remaining arguments; see `cli.run` for exit codes."""
    from advebm.runtime import signals

    if "DVC_ROOT" in os.environ:
        signals.end_with(sys.argv[0])
    import typer

    from advebm import cli

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(name)(cli.COMMANDS[name])
    alone = name not in cli.SHARED or "RANK" in os.environ or "--help" in sys.argv
    cli.run(app if alone else partial(launched, app, name), name)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # all is written: end as completed, not by a signal


def launched(app: Callable[..., int | None], name: str, **options: bool) -> int | None:
    """Run the application, or this script in launch.processes processes."""
    from advebm import config

    processes = config.processes(Path("params.yaml"))
    if processes == 1:
        return app(**options)
    from advebm.runtime import ranks

    return ranks.launch(processes, [sys.argv[0], name, *sys.argv[1:]])


if __name__ == "__main__":
    stage(sys.argv.pop(1))
