"""A second bundle that scores the same requests without affecting responses.

The processes of a scorer send each answered request to one low-priority process, over a
non-blocking socket: requests that it cannot take are skipped and counted. It scores the request
with the second bundle, compares scores and order with the response, and sums the differences.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import socket
import threading
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from nightbid.errors import NightbidError
from nightbid.scorer.follow import ServedBundle, load
from nightbid.scorer.shadow_bundle import ShadowBundleFinder
from nightbid.scorer.shadow_sums import STATE, ShadowComparison, Sums
from nightbid.storage.workspace import Workspace

LOG = logging.getLogger(__name__)
SOCKET = "shadow.sock"
MOST_BYTES = 160 << 10
"""Maximum size of a message: the kernel rejects datagrams above about 200 KiB."""
MOST_WAITING = 256
"""Maximum number of requests that wait for the shadow."""
NICENESS = 10
STATE_SECONDS = 0.5
"""Minimum seconds between two writes of the sums."""


class AnsweredRequest(msgspec.Struct, array_like=True):
    """An answered request."""

    champion: int
    body: bytes
    is_arrow: bool
    scores: bytes
    """Scores of the champion; float64 [rows]."""
    bids: list[float] = []
    """[rows] bids; empty means that rows are ordered by score."""


class Sender:
    """Sends requests from a scoring process to the shadow.

    Args:
        folder: Folder that is shared with the shadow.
    """

    def __init__(self, folder: Path) -> None:
        self._address = str(folder / SOCKET)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def send(self, message: AnsweredRequest) -> bool:
        """Send a request, or skip it if the shadow cannot take it; returns whether it was sent."""
        packed = msgspec.msgpack.encode(message)
        if len(packed) > MOST_BYTES:
            return False
        try:
            self._socket.sendto(packed, self._address)
        except OSError:  # the socket is full or missing
            return False
        return True


class Shadow:
    """The process that scores requests in the shadow.

    Args:
        choice: Finds the bundle.
        model: Choice as the user gave it.
        folder: Folder that is shared with the scoring processes.
        log: File that receives a line per request; None disables the log.
        poll_seconds: Seconds between two polls for a newer bundle.
        key: Request columns that identify a row of the logs; the log then includes the scores.
    """

    def __init__(
        self,
        choice: ShadowBundleFinder,
        model: str,
        folder: Path,
        log: Path | None,
        poll_seconds: float,
        key: tuple[str, ...] = (),
    ) -> None:
        self._choice, self._folder, self._log, self._key = choice, folder, log, key
        self._poll_seconds = poll_seconds
        self._sums = Sums(model)
        self._served: ServedBundle | None = None
        self._waiting: queue.Queue[bytes] = queue.Queue(MOST_WAITING)

    def run(self) -> None:
        """Score until the process ends."""
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        with contextlib.suppress(FileNotFoundError):
            (self._folder / SOCKET).unlink()
        receiver.bind(str(self._folder / SOCKET))
        threading.Thread(target=self._receive, args=(receiver,), daemon=True).start()
        looked = written = -1e9
        while True:
            if time.monotonic() - looked > self._poll_seconds:
                self._look()
                looked = time.monotonic()
            with contextlib.suppress(queue.Empty):
                self._compare(self._waiting.get(timeout=STATE_SECONDS))
            if time.monotonic() - written > STATE_SECONDS:
                self._write()
                written = time.monotonic()

    def _receive(self, receiver: socket.socket) -> None:
        while True:
            packed = receiver.recv(MOST_BYTES + 1)
            try:
                self._waiting.put_nowait(packed)
            except queue.Full:
                self._sums.skipped += 1

    def _look(self) -> None:
        try:
            now = self._served.champion.bundle_digest if self._served else ""
            if (chosen := self._choice.find(now)) is not None:
                self._served = load(*chosen)
            self._sums.trouble = ""
        except Exception as error:  # any error of a damaged bundle; the next may be intact
            self._sums.trouble = " ".join(str(error).split())
            if not isinstance(error, NightbidError):
                LOG.exception("no shadow")

    def _compare(self, packed: bytes) -> None:
        served = self._served
        if served is None:
            self._sums.skipped += 1
            return
        try:
            message = msgspec.msgpack.decode(packed, type=AnsweredRequest)
            if message.is_arrow:
                shadow = served.answer_arrow(message.body)
            else:
                shadow = served.rank(message.body)[0]
            champion = np.frombuffer(message.scores, np.float64)
            bids = np.array(message.bids) if message.bids else None
            entry = served.champion
            name = entry.bundle_digest[:12]
            pair = self._sums.pairs.setdefault(
                f"{message.champion}/{name}", ShadowComparison(message.champion, name, entry.run_id)
            )
            line = pair.add(champion, shadow, bids)
        except Exception as error:  # for example a column that only this model reads
            self._sums.failed += 1
            self._sums.trouble = " ".join(str(error).split())
            return
        if self._log is not None:
            record = {"at": datetime.now(UTC).isoformat(), "champion": message.champion,
                      "shadow": name, **line}  # fmt: skip
            if keys := {} if message.is_arrow else _keys(message.body, self._key):
                record["keys"] = keys
                record["probabilities"] = {"champion": champion.tolist(), "shadow": shadow.tolist()}
            try:
                with self._log.open("a") as file:
                    file.write(json.dumps(record) + "\n")
            except OSError as error:  # for example a full disk; the sums do not need it
                self._sums.trouble = f"{self._log}: cannot be written ({error.strerror})"

    def _write(self) -> None:
        temporary = self._folder / f"{STATE}.tmp"
        with contextlib.suppress(OSError):  # a full disk; the next time may succeed
            temporary.write_text(json.dumps(asdict(self._sums)))
            temporary.replace(self._folder / STATE)


def _keys(body: bytes, names: tuple[str, ...]) -> dict[str, list[Any]]:
    """Return some columns of the rows of a request; empty unless all rows have all of them."""
    request = json.loads(body)
    context = request.get("context", {})
    try:
        return {name: [{**context, **row}[name] for row in request["rows"]] for name in names}
    except KeyError:
        return {}


def run(
    workspace: str,
    pipeline: str,
    model: str,
    folder: Path,
    log: str,
    poll: float,
    key: tuple[str, ...] = (),
) -> None:
    """Run a shadow until its parent exits; this is the target of a process."""
    from nightbid.scorer.server import end_with_parent

    threading.Thread(target=end_with_parent, daemon=True).start()
    os.nice(NICENESS)
    choice = ShadowBundleFinder(Workspace(workspace), pipeline, model)
    Shadow(choice, model, folder, Path(log) if log else None, poll, key).run()
