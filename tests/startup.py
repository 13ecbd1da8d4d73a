"""How long each stage of `dvc repro` takes until it starts useful work, that is, until it draws a progress bar (`check` and
`report` draw none, so their whole run is timed), compared with `import torch` alone; and how long `dvc repro` takes with
nothing to do. The commands take turns; medians of three, written to temporary folders. `make startup`."""

import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

TURNS = 3


def commands():
    """The command of each stage that `dvc repro` runs, from the lock files."""
    method = yaml.safe_load(Path("params.yaml").read_text())["method"]
    for file in (Path("dvc.lock"), *sorted(Path("stages").glob("*/dvc.lock"))):
        for name, stage in yaml.safe_load(file.read_text())["stages"].items():
            if "@" not in name or name.endswith(f"@{method}"):
                yield "".join(re.search(r"stages/run\.py (\w+)( judge| warm)?", stage["cmd"]).groups("")), stage["cmd"]


def seconds(*command, **more):
    """Time from the start of the process until its first progress bar, or until it exits."""
    started = time.perf_counter()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "start_new_session": True}
    process = subprocess.Popen(command, env={**os.environ, **more}, **pipes)
    shown = b""
    while b"?it" not in shown and (more := os.read(process.stdout.fileno(), 4096)):
        shown += more
    passed = time.perf_counter() - started
    if b"?it" in shown:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    elif process.wait():
        sys.exit(f"{' '.join(command)}\n{shown.decode()}")
    return passed


def main():
    subprocess.run(["dvc", "repro", "--quiet"], check=True)
    root = os.environ.get("ADVEBM_DATA") or str(Path("data/raw").resolve())
    rows = dict(commands())
    found = {name: [] for name in ("import torch", *rows, "dvc repro, nothing to do")}
    for _ in range(TURNS):
        found["import torch"].append(seconds("python", "-c", "import torch"))
        for name, command in rows.items():
            with tempfile.TemporaryDirectory() as folder:
                redirected = re.sub(r"--out (\S+)", lambda match, at=folder: f"--out {at}/{Path(match[1]).name}", command)
                found[name].append(seconds(*redirected.split(), ADVEBM_TRACKING="off", DVC_ROOT=folder, ADVEBM_DATA=root))
        found["dvc repro, nothing to do"].append(seconds("dvc", "repro", "--quiet"))
    torch = statistics.median(found["import torch"])
    print("| what | seconds | least, most | beyond torch |\n|---|---|---|---|")
    for name, values in found.items():
        middle = statistics.median(values)
        print(f"| {name} | {middle:.2f} | {min(values):.2f}, {max(values):.2f} | {max(0, middle - torch):.2f} |")


if __name__ == "__main__":
    main()
