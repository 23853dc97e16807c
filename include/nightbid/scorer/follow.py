"""The champion's bundle in memory, updated after promotions and rollbacks.

The scorer notices a promotion or a rollback within the polling interval. It loads the new bundle
and scores the latest requests of the previous one with it, then switches in one step; requests in
progress finish on the bundle that they started with. If a bundle cannot be loaded, the previous one
keeps serving and reports the reason.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nightbid.errors import CorruptDataError, MissingDataError, NightbidError
from nightbid.night.champion import Champion, ChampionPointer
from nightbid.night.manifest import Manifest
from nightbid.partitions import partition_of
from nightbid.scorer import arrow_rows, rows
from nightbid.scorer.auction import KEYS
from nightbid.scorer.rows import RankWire, Wire
from nightbid.serving.bundle import Bundle, read_card, read_columns
from nightbid.serving.lookup import ArrowRows
from nightbid.serving.request_lookup import RequestLookup
from nightbid.storage.workspace import Workspace, fetch

LOG = logging.getLogger(__name__)
SCORE = msgspec.json.Decoder(Wire)
RANK = msgspec.json.Decoder(RankWire)
RECENT = 256
"""Number of requests to one champion that the next one scores before it serves."""
MOST_RECENT_BYTES = 64 << 10
"""Maximum size of such a request."""
PAUSES = 4.0
"""Seconds to sleep per second of this warm-up, so that the event loop can answer requests."""


class ServedBundle:
    """One champion's bundle, used by the event loop and by one thread for large requests.

    Args:
        champion: Entry in the champion history.
        bundle: Model and features of the champion.
        columns: Names and types of the raw columns that the bundle reads.
    """

    def __init__(self, champion: Champion, bundle: Bundle, columns: pa.Schema) -> None:
        self.champion = champion
        self.columns = columns
        self.output = bundle.card.output
        self._user = bundle.fitted.definition.user
        # Each thread has its own cache of looked-up values.
        self._small, self._large = bundle, bundle.twin()
        self._requests = RequestLookup(bundle.fitted, columns)
        self._reported = 0
        self._unprepared = 0
        self.recent: deque[bytes] = deque(maxlen=RECENT)
        """Bodies of the latest requests."""

    @functools.cached_property
    def name(self) -> dict[str, Any]:
        """Description of the champion for responses."""
        return {
            "pipeline": self.champion.pipeline,
            "number": self.champion.number,
            "run_id": self.champion.run_id,
            "night": self.champion.night.isoformat(),
            "bundle": self.champion.bundle_digest[:12],
            "architecture": self._small.card.architecture,
        }

    def score(
        self, raw: ArrowRows, shared: ArrowRows | None = None, *, large: bool = False
    ) -> npt.NDArray[np.float64]:
        """Score raw rows, as `Bundle.score` does; float64 [rows].

        Args:
            raw: Raw rows.
            shared: One row with the columns that all rows have in common.
            large: Whether the caller is the thread for large requests, not the event loop.

        Raises:
            NightbidError: A feature cannot be computed from the rows.
        """
        return (self._large if large else self._small).score(raw, shared)

    def answer(self, body: bytes, *, large: bool = False) -> npt.NDArray[np.float64]:
        """Score the rows of a request; float64 [rows].

        Args:
            body: Request as JSON.
            large: Whether the caller is the thread for large requests.

        Raises:
            NightbidError: The request is invalid; the message says why.
        """
        return self.rank(body, SCORE, large=large)[0]

    def answer_arrow(self, body: bytes, *, large: bool = False) -> npt.NDArray[np.float64]:
        """Score the rows of an Arrow IPC stream; see `answer`."""
        request = arrow_rows.read(body, self.columns, self._user)
        return self.score(request.rows, request.shared, large=large)

    def rank_arrow(
        self, body: bytes, *, large: bool = False
    ) -> tuple[npt.NDArray[np.float64], dict[str, Any]]:
        """Score the rows of an Arrow IPC stream with bids; see `rank`."""
        request, others = arrow_rows.read_rank(body, self.columns, self._user)
        return self.score(request.rows, request.shared, large=large), others

    def rank(
        self,
        body: bytes,
        decoder: msgspec.json.Decoder[Wire] | msgspec.json.Decoder[RankWire] = RANK,
        *,
        large: bool = False,
    ) -> tuple[npt.NDArray[np.float64], dict[str, Any]]:
        """Score the rows of a request, and decode its other keys.

        Args:
            body: Request as JSON.
            decoder: Decoder for requests to score or to rank.
            large: Whether the caller is the thread for large requests.

        Returns:
            Predictions, float64 [rows], and the other keys of the request.

        Raises:
            NightbidError: The request is invalid; the message says why.
        """
        if not large:
            try:
                wire = decoder.decode(body)
                others = wire.others() if isinstance(wire, RankWire) else {}
                feed = self._requests.inputs(wire.context, wire.rows)
            except Exception:  # reading column by column below reports the error, if any
                self._unprepared += 1
            else:
                if len(body) <= MOST_RECENT_BYTES:
                    self.recent.append(body)
                return self._small.run(feed).astype(np.float64), others
        whole = rows.load(body, self.columns)
        keys = KEYS if decoder is RANK else frozenset[str]()
        request = rows.read(whole, self.columns, keys, user=self._user)
        return self.score(request.rows, request.shared, large=large), whole

    def prepare(self, bodies: Iterable[bytes]) -> None:
        """Score requests that another bundle answered, so that their values are cached.

        Call this only before the bundle serves. Requests that it cannot read are skipped.
        """
        for body in bodies:
            start = time.thread_time()
            with contextlib.suppress(Exception):
                wire = RANK.decode(body)
                self._small.run(self._requests.inputs(wire.context, wire.rows))
            time.sleep(PAUSES * (time.thread_time() - start))

    def newly_missed(self) -> int:
        """Return the number of feature values not found in the cache since the last call."""
        missed = self._small.missed + self._large.missed + self._requests.missed
        new, self._reported = missed - self._reported, missed
        return new

    def newly_unprepared(self) -> int:
        """Return the number of requests that were read column by column since the last call."""
        new, self._unprepared = self._unprepared, 0
        return new


def load(champion: Champion, folder: Path) -> ServedBundle:
    """Load a bundle, and score a row of nulls with it as a test.

    Raises:
        NightbidError: The bundle is damaged.
    """
    columns = read_columns(folder)
    served = ServedBundle(champion, Bundle.load(folder, threads=1), columns)
    nothing = pa.table([pa.nulls(1, column.type) for column in columns], schema=columns)
    served.score(nothing)
    served.score(nothing, large=True)
    return served


@dataclass(frozen=True)
class ServingState:
    """What serves, and the error that prevents serving the latest champion, if any."""

    served: ServedBundle | None = None
    trouble: str = ""


class Follower:
    """Keeps the champion of one pipeline in memory.

    Args:
        workspace: Workspace with the champion history.
        pipeline: Name of the pipeline.
        turn: Lock file that makes the scorer's processes load a new champion one after the other,
            which leaves cores for requests. None means a single process.
    """

    def __init__(self, workspace: Workspace, pipeline: str, turn: Path | None = None) -> None:
        self._workspace = workspace
        self._pipeline = pipeline
        self._turn = turn
        self._looking = threading.Lock()
        self.state = ServingState()

    def look(self) -> ServingState:
        """Check the history once and follow it. Never raises, so that later promotions are seen."""
        with self._looking:
            before = self.state
            try:
                served = self._newest(before.served)
                self.state = ServingState(served, self._retired() if served is None else "")
            except Exception as error:  # any error of a damaged bundle; the next may be intact
                trouble = " ".join(str(error).split())
                if not isinstance(error, NightbidError):
                    trouble = f"{type(error).__name__}: {trouble}"
                if trouble != before.trouble:
                    LOG.warning("%s: the newest champion is not served: %s",
                                self._pipeline, trouble)  # fmt: skip
                self.state = ServingState(before.served, trouble)
        return self.state

    def _retired(self) -> str:
        """Return why nothing serves, if the champion was retired; empty before the first one."""
        if not ChampionPointer(self._workspace, self._pipeline).history():
            return ""
        return (
            f"the champion was retired → `nightbid rollback {self._pipeline} --to NUMBER`, or run"
            " a night"
        )

    def _newest(self, served: ServedBundle | None) -> ServedBundle | None:
        pointer = ChampionPointer(self._workspace, self._pipeline)
        champion = pointer.current()
        if champion is None and served and pointer.history():
            LOG.warning("%s: the champion was retired, and nothing serves", self._pipeline)
            return None
        if champion is None and served:
            raise MissingDataError(
                "the champion history is gone, and promotions go unnoticed",
                where=self._pipeline,
                hint="mount or restore the workspace",
            )
        # Compare whole entries: in a restored history, the same number may be another entry.
        if champion is None or (served and served.champion == champion):
            return served
        folder = fetch_bundle(self._workspace, champion)
        with _alone(self._turn if served else None):
            newest = load(champion, folder)
        if served:
            newest.prepare(tuple(served.recent))
            newest.recent.extend(tuple(served.recent))
        LOG.warning("%s: champion #%d serves: %s", self._pipeline, champion.number, champion.run_id)
        return newest


@contextlib.contextmanager
def _alone(turn: Path | None) -> Iterator[None]:
    if turn is None:
        yield
        return
    with turn.open("ab") as file:  # closing the file, or dying, releases the lock
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fetch_bundle(workspace: Workspace, champion: Champion) -> Path:
    """Download the champion's bundle if it is not cached.

    Raises:
        CorruptDataError: The bundle differs from the promoted one.
    """
    folder = fetch(workspace.at(champion.bundle_uri))
    manifest = Manifest.model_validate_json((folder / "manifest.json").read_text())
    if manifest.digest != champion.bundle_digest:
        raise CorruptDataError(
            f"the bundle has digest {manifest.digest[:12]}, but {champion.bundle_digest[:12]} was"
            " promoted",
            where=champion.bundle_uri,
            hint=f"roll back, or promote another night of {champion.pipeline}",
        )
    return folder


class OneBundle:
    """Serves one bundle, independent of the champion; for load tests.

    Args:
        folder: Folder of an exported bundle.
        pipeline: Name of the bundle's pipeline.
    """

    def __init__(self, folder: Path, pipeline: str) -> None:
        self._folder, self._pipeline = folder, pipeline
        self.state = ServingState()

    def look(self) -> ServingState:
        """Load the bundle on the first call.

        Raises:
            NightbidError: The bundle is damaged.
        """
        if self.state.served is None:
            card = read_card(self._folder)
            champion = Champion(
                pipeline=self._pipeline, number=0, run_id="", night=partition_of(card.night),
                bundle_uri=str(self._folder), bundle_digest="", since=datetime.now(UTC),
                change="promote", reason="not promoted: one bundle is served",
            )  # fmt: skip
            self.state = ServingState(load(champion, self._folder))
        return self.state
