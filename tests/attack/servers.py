"""Tracking servers that do not serve."""

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from steps import DEADLINE, STEPS, Arena, run


@contextlib.contextmanager
def server(kind: str, rng: random.Random) -> Iterator[str]:
    """The address of a tracking server that does not serve."""
    if kind == "closed":
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            yield f"http://127.0.0.1:{unused.getsockname()[1]}"
        return

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            if kind == "hangs":
                time.sleep(DEADLINE)
            elif kind == "slow":
                time.sleep(9)
            elif kind == "drops":
                return
            code, body = (500, b"{}") if kind == "errors" else (200, b"<!DOCTYPE html>")
            with contextlib.suppress(OSError):
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_PATCH = answer

        def log_message(self, *arguments: object) -> None:
            pass

    serving = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    serving.daemon_threads = True
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{serving.server_address[1]}"
    finally:
        threading.Thread(target=serving.shutdown, daemon=True).start()


def served(arena: Arena) -> str:
    """A tracking server that is closed, hangs, is slow, fails, drops the connection or is none: the same bytes in time."""
    name = arena.rng.choice(["train", "train at_ebm", "sample", "robustness", "fisher"])
    kind = arena.rng.choice(["closed", "hangs", "slow", "drops", "errors", "html"])
    folder = arena.good.inputs(name, arena.folder / "tree")
    with server(kind, arena.rng) as uri:
        end = run(folder, STEPS[name].arguments, ADVEBM_TRACKING="on", MLFLOW_TRACKING_URI=uri)
    arena.note(f"{name}, {kind}, {end.seconds:.1f} s for {arena.good.seconds[name]:.1f}: {end.out}")
    if end.seconds > 3 * arena.good.seconds[name] + 30:
        return "stuck"
    return end.verdict(lambda: arena.good.same(name, folder))
