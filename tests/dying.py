"""Imported by a process that is to be killed (SIGKILL) at the AT-th fsync or rename of a state file."""

import os
import signal
from pathlib import Path

calls, fsync, rename = 0, os.fsync, Path.rename


def counted(real, *arguments):
    global calls
    name = Path(arguments[0] if real is rename else os.readlink(f"/proc/self/fd/{arguments[0]}")).name
    calls += ".safetensors.part" in name or name == "parts" or name.startswith("train-")
    if calls == int(os.environ["AT"]):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)


os.fsync = lambda *arguments: counted(fsync, *arguments)
Path.rename = lambda *arguments: counted(rename, *arguments)
