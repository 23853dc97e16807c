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
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from upath import UPath

from nightbid.errors import ConfigError, MissingDataError, NightbidError
from nightbid.night.champion import Champion, ChampionPointer
from nightbid.night.manifest import Manifest
from nightbid.night.record import runs_of
from nightbid.partitions import partition_of
from nightbid.scorer.follow import Served, fetch_bundle, load
from nightbid.serving.bundle import read_card
from nightbid.storage.workspace import Workspace, fetch

LOG = logging.getLogger(__name__)
PREVIOUS, CANDIDATE = "previous", "candidate"
SOCKET, STATE = "shadow.sock", "shadow.json"
MOST_BYTES = 160 << 10
"""Maximum size of a message: the kernel rejects datagrams above about 200 KiB."""
MOST_WAITING = 256
"""Maximum number of requests that wait for the shadow."""
NICENESS = 10
STATE_SECONDS = 0.5
"""Minimum seconds between two writes of the sums."""


class Message(msgspec.Struct, array_like=True):
    """An answered request."""

    champion: int
    body: bytes
    is_arrow: bool
    scores: bytes
    """Scores of the champion; float64 [rows]."""
    bids: list[float] = []
    """[rows] bids; empty means that rows are ordered by score."""


@dataclass
class Comparison:
    """Differences between a champion and a shadow, summed over requests."""

    champion: int
    shadow: str
    """First characters of the digest of the shadow's bundle."""
    run_id: str
    requests: int = 0
    rows: int = 0
    champion_sum: float = 0.0
    """Sum of the champion's probabilities over all rows."""
    shadow_sum: float = 0.0
    difference_sum: float = 0.0
    """Sum of absolute differences of probabilities."""
    largest_difference: float = 0.0
    ordered: int = 0
    """Number of requests with at least two rows, which have an order."""
    winners_changed: int = 0
    tau_sum: float = 0.0
    taus: int = 0
    """Number of requests with a defined Kendall's tau: neither side scores all rows equally."""

    def add(
        self,
        champion: npt.NDArray[np.float64],
        shadow: npt.NDArray[np.float64],
        bids: npt.NDArray[np.float64] | None = None,
    ) -> dict[str, Any]:
        """Add a request, and return its own differences.

        Args:
            champion: Probabilities of the champion, [rows].
            shadow: Probabilities of the shadow, [rows].
            bids: Bids, [rows]; rows are then ordered by bid times probability.
        """
        differences: dict[str, Any] = {"rows": len(champion)}
        self.requests += 1
        if not len(champion):
            return differences
        difference = np.abs(champion - shadow)
        self.rows += len(champion)
        self.champion_sum += float(champion.sum())
        self.shadow_sum += float(shadow.sum())
        self.difference_sum += float(difference.sum())
        self.largest_difference = max(self.largest_difference, float(difference.max()))
        differences |= {"mean_difference": float(difference.mean()),
                        "largest_difference": float(difference.max())}  # fmt: skip
        if len(champion) > 1:
            from scipy.stats import kendalltau  # slow import, not needed by scoring processes

            champion_value, shadow_value = (
                (champion, shadow) if bids is None else (champion * bids, shadow * bids)
            )
            changed = bool(shadow_value[int(champion_value.argmax())] < shadow_value.max())
            self.ordered += 1
            self.winners_changed += changed
            tau = float(kendalltau(champion_value, shadow_value).statistic)
            if not np.isnan(tau):
                self.tau_sum += tau
                self.taus += 1
            differences |= {
                "winner_changed": changed,
                "kendall_tau": None if np.isnan(tau) else tau,
            }
        return differences

    def summary(self) -> dict[str, Any]:
        """Return means and shares; None if nothing was compared."""
        rows, ordered = max(self.rows, 1), max(self.ordered, 1)
        return {
            "champion": self.champion,
            "shadow": self.shadow,
            "run_id": self.run_id,
            "requests": self.requests,
            "rows": self.rows,
            "mean_probability": {
                "champion": self.champion_sum / rows,
                "shadow": self.shadow_sum / rows,
            }
            if self.rows
            else None,
            "mean_difference": self.difference_sum / rows if self.rows else None,
            "largest_difference": self.largest_difference if self.rows else None,
            "winner_changed": self.winners_changed / ordered if self.ordered else None,
            "kendall_tau": self.tau_sum / self.taus if self.taus else None,
        }


@dataclass
class Sums:
    """Totals of a shadow so far."""

    of: str
    skipped: int = 0
    failed: int = 0
    trouble: str = ""
    pairs: dict[str, Comparison] = field(default_factory=dict)


class Sender:
    """Sends requests from a scoring process to the shadow.

    Args:
        folder: Folder that is shared with the shadow.
    """

    def __init__(self, folder: Path) -> None:
        self._address = str(folder / SOCKET)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def send(self, message: Message) -> bool:
        """Send a request, or skip it if the shadow cannot take it; returns whether it was sent."""
        packed = msgspec.msgpack.encode(message)
        if len(packed) > MOST_BYTES:
            return False
        try:
            self._socket.sendto(packed, self._address)
        except OSError:  # the socket is full or missing
            return False
        return True


class Choice:
    """Finds the bundle that a shadow scores with.

    Args:
        workspace: Workspace with champions and runs.
        pipeline: Name of the pipeline.
        model: `previous`, `candidate`, or the folder of an exported bundle.
    """

    def __init__(self, workspace: Workspace, pipeline: str, model: str) -> None:
        self._workspace, self._pipeline, self._model = workspace, pipeline, model

    def find(self, now: str = "") -> tuple[Champion, Path] | None:
        """Find the bundle to score with.

        Args:
            now: Digest of the bundle that is loaded; empty if none is.

        Returns:
            The bundle as an entry of the champion history, and its folder; None if that bundle is
            already loaded.

        Raises:
            NightbidError: There is no such bundle, or it is damaged.
        """
        if self._model == PREVIOUS:
            pointer = ChampionPointer(self._workspace, self._pipeline)
            before = pointer.before()
            if before is None:
                raise MissingDataError("there is no previous champion", where=self._pipeline)
            return None if before.bundle_digest == now else (
                before, fetch_bundle(self._workspace, before)
            )  # fmt: skip
        uri, run_id = self._candidate() if self._model == CANDIDATE else (self._model, "")
        folder = fetch(_at(self._workspace, uri))
        manifest = Manifest.model_validate_json((folder / "manifest.json").read_text())
        if manifest.digest == now:
            return None
        card = read_card(folder)
        entry = Champion(
            pipeline=self._pipeline, number=0, run_id=run_id, bundle_uri=uri,
            night=partition_of(card.night),
            bundle_digest=manifest.digest, since=datetime.now(UTC), change="promote",
            reason="not promoted: it scores in parallel to the champion",
        )  # fmt: skip
        return entry, folder

    def _candidate(self) -> tuple[str, str]:
        """Return address and run id of the newest export that was never champion."""
        pointer = ChampionPointer(self._workspace, self._pipeline)
        promoted = {entry.bundle_uri for entry in pointer.history()}
        for run in reversed(runs_of(self._workspace, self._pipeline)):
            record = run.stage("export")
            if record and record.state == "done" and record.uri not in promoted:
                return record.uri, run.run_id
        raise MissingDataError(
            "there is no unpromoted candidate",
            where=self._pipeline,
            hint="run a night, or pass the folder of a bundle",
        )


def _at(workspace: Workspace, folder: str) -> UPath:
    """Return a local folder if it exists, else one of the workspace."""
    local = Path(folder)
    return UPath(local.absolute()) if local.exists() else workspace.at(folder)


def check(workspace: Workspace, model: str) -> None:
    """Check the choice of a shadow.

    Raises:
        ConfigError: It is neither a keyword nor the folder of a bundle.
    """
    if model in (PREVIOUS, CANDIDATE):
        return
    try:
        read_card(fetch(_at(workspace, model)))
    except NightbidError as error:
        raise ConfigError(
            f"no bundle at {model!r}: {error.what}",
            where="--shadow",
            hint=f"use {PREVIOUS}, {CANDIDATE} or the folder of an exported bundle",
        ) from error


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
        choice: Choice,
        model: str,
        folder: Path,
        log: Path | None,
        poll_seconds: float,
        key: tuple[str, ...] = (),
    ) -> None:
        self._choice, self._folder, self._log, self._key = choice, folder, log, key
        self._poll_seconds = poll_seconds
        self._sums = Sums(model)
        self._served: Served | None = None
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
            message = msgspec.msgpack.decode(packed, type=Message)
            if message.is_arrow:
                shadow = served.answer_arrow(message.body)
            else:
                shadow = served.rank(message.body)[0]
            champion = np.frombuffer(message.scores, np.float64)
            bids = np.array(message.bids) if message.bids else None
            entry = served.champion
            name = entry.bundle_digest[:12]
            pair = self._sums.pairs.setdefault(
                f"{message.champion}/{name}", Comparison(message.champion, name, entry.run_id)
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
            with self._log.open("a") as file:
                file.write(json.dumps(record) + "\n")

    def _write(self) -> None:
        temporary = self._folder / f"{STATE}.tmp"
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
    choice = Choice(Workspace(workspace), pipeline, model)
    Shadow(choice, model, folder, Path(log) if log else None, poll, key).run()


def read(folder: Path) -> Sums | None:
    """Read the totals of a scorer's shadow; None if there are none yet."""
    try:
        sums = json.loads((folder / STATE).read_text())
    except FileNotFoundError:
        return None
    pairs = {name: Comparison(**figures) for name, figures in sums.pop("pairs").items()}
    return Sums(**sums, pairs=pairs)
