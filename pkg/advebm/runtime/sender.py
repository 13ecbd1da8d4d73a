"""The process that sends the outbox to MLflow beside stages. All stages of one `dvc repro` share it, as importing MLflow
takes seconds."""

import importlib
import os
import socket
import socketserver
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from threading import Timer

from advebm.runtime import disk

EVERY = 15  # seconds after which it sends unasked
SEND, DONE = b"send\n", b"done\n"
SERVE = "import sys; from advebm.runtime.sender import serve; serve(*sys.argv[1:])"


class Sender(socketserver.UnixStreamServer):
    """Sends the outbox when a stage asks for it and now and then, and once more, within `deadline` seconds, after the
    process `owner` has ended. Its address is in the file `note`."""

    def __init__(self, owner: int, note: Path, deadline: float):
        self.owner, self.note, self.deadline, self.last = owner, note, deadline, time.monotonic()
        place = Path(tempfile.mkdtemp(prefix="advebm-"), "socket")  # paths of sockets must be short
        super().__init__(str(place), Answer)
        disk.write(note, bytes(place))

    def send(self) -> str:
        """Returns what the user is to know."""
        from advebm.runtime import tracking

        try:
            tracking.sync()
        except ConnectionError as error:
            return f"advebm: {error}{tracking.later()}\n"
        except ValueError as error:
            return f"advebm: {error}\n"
        finally:
            self.last = time.monotonic()
        return ""

    def service_actions(self) -> None:
        """Called about once a second."""
        from psutil import pid_exists

        if not pid_exists(self.owner):
            tidy(self.note)
            end = Timer(self.deadline, os._exit, [1])
            end.daemon = True
            end.start()
            self.send()
            sys.exit()
        if time.monotonic() - self.last > EVERY:
            self.send()


class Answer(socketserver.StreamRequestHandler):
    """Of the sender to a stage."""

    server: Sender

    def handle(self) -> None:
        if self.rfile.readline() == SEND:
            self.wfile.write(self.server.send().encode() + DONE)


def serve(owner: str, note: str, deadline: str) -> None:
    """What the process runs."""
    sender = Sender(int(owner), Path(note), float(deadline))
    with suppress(Exception):
        importlib.import_module("mlflow.tracking")  # while the stage works; if that fails, sending says why
    sender.serve_forever(poll_interval=1)


def tidy(note: Path) -> None:
    """Remove the address of a process that serves no more."""
    with suppress(OSError):
        place = Path(note.read_text())
        note.unlink()
        place.unlink()
        place.parent.rmdir()


def start(owner: int, note: Path, deadline: float) -> "subprocess.Popen[bytes] | None":
    """Start the process, unless it serves already."""
    with suppress(OSError), _connected(note, 1):
        return None
    tidy(note)
    note.parent.mkdir(parents=True, exist_ok=True)
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, "-P", "-c", SERVE, str(owner), str(note), str(deadline)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        start_new_session=True,  # without the signals of a terminal
    )


def ask(note: Path, process: "subprocess.Popen[bytes] | None", patience: float) -> str | None:
    """Have the outbox sent. Returns what the user is to know; None if that is not known within `patience` seconds."""
    until = time.monotonic() + patience
    while not note.exists() and process and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)  # it is starting
    with suppress(OSError), _connected(note, until - time.monotonic()) as connection:
        connection.sendall(SEND)
        with connection.makefile("rb") as answer:
            told = answer.read()
        if told.endswith(DONE):
            return told.removesuffix(DONE).decode()
    return None


def _connected(note: Path, patience: float) -> socket.socket:
    """A connection to the sender. Raises OSError."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(max(patience, 0.01))
        connection.connect(note.read_text())
    except BaseException:
        connection.close()
        raise
    return connection


def stop(process: "subprocess.Popen[bytes]", note: Path) -> None:
    process.kill()
    process.wait()
    tidy(note)
