"""Serve one bundle on loopback for load tests, as `nightbid serve` serves the champion.

``python -m nightbid.scorer FOLDER PIPELINE PROCESSES`` prints the port once all processes respond,
and exits when its standard input is closed.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from nightbid.scorer.server import ScorerSettings, listen, serve

QUEUE_MS = 50.0


def main() -> None:
    """Serve until the parent process closes the pipe or exits."""
    bundle, pipeline, processes = sys.argv[1:]
    listener = listen("127.0.0.1", 0)
    threading.Thread(target=_end_with_input, daemon=True).start()
    serve(
        ScorerSettings(workspace="", pipeline=pipeline, bundle=bundle, queue_ms=QUEUE_MS),
        listener,
        processes=int(processes),
        started=lambda: _say(listener.getsockname()[1]),
    )


def _say(port: int) -> None:
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()


def _end_with_input() -> None:
    # A buffered reader that still waits at the exit is a fatal error of Python.
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
