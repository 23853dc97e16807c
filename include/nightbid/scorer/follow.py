"""The champion in memory, and how it is followed.

A promotion or a rollback is noticed within the polling interval. The new bundle is loaded, and has
scored the newest requests of the one before, before it takes over in one step; requests under way
end on the bundle that they began with. A bundle that cannot be loaded changes nothing: the one
before goes on, and says why.
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

from nightbid.errors import CorruptDataError, NightbidError
from nightbid.night.champion import Champion, ChampionPointer
from nightbid.night.manifest import Manifest
from nightbid.partitions import partition_of
from nightbid.scorer import arrow_rows, rows
from nightbid.scorer.auction import KEYS
from nightbid.scorer.rows import RankWire, Wire
from nightbid.serving.bundle import Bundle, read_card, read_columns
from nightbid.serving.lookup import Rows
from nightbid.serving.request_lookup import RequestLookup
from nightbid.storage.workspace import Workspace, fetch

LOG = logging.getLogger(__name__)
SCORE = msgspec.json.Decoder(Wire)
RANK = msgspec.json.Decoder(RankWire)
RECENT = 256
"""Requests of one champion that the next one scores before it serves."""
MOST_RECENT_BYTES = 64 << 10
"""A larger request is not kept."""
PAUSES = 4.0
"""Seconds of rest per second of that work: the event loop answers requests meanwhile."""


class Served:
    """One champion's bundle, for the event loop and one thread beside it.

    Args:
        champion: Its entry in the history.
        bundle: Its model and features.
        columns: Names and types of the raw columns that it reads.
    """

    def __init__(self, champion: Champion, bundle: Bundle, columns: pa.Schema) -> None:
        self.champion = champion
        self.columns = columns
        self.output = bundle.card.output
        # Each thread keeps looked-up values of its own.
        self._small, self._large = bundle, bundle.twin()
        self._requests = RequestLookup(bundle.fitted, columns)
        self._reported = 0
        self._unprepared = 0
        self.recent: deque[bytes] = deque(maxlen=RECENT)
        """Bodies of the newest requests."""

    @functools.cached_property
    def name(self) -> dict[str, Any]:
        """The champion, as answers name it."""
        return {
            "pipeline": self.champion.pipeline,
            "number": self.champion.number,
            "run_id": self.champion.run_id,
            "night": self.champion.night.isoformat(),
            "bundle": self.champion.bundle_digest[:12],
            "architecture": self._small.card.architecture,
        }

    def score(
        self, raw: Rows, shared: Rows | None = None, *, large: bool = False
    ) -> npt.NDArray[np.float64]:
        """Score raw rows; float64 [rows], the numbers of `Bundle.score`.

        Args:
            raw: The rows.
            shared: One row with the columns that all rows have in common.
            large: The caller is the thread for large requests, not the event loop.

        Raises:
            NightbidError: A feature cannot be made of them.
        """
        return (self._large if large else self._small).score(raw, shared)

    def answer(self, body: bytes, *, large: bool = False) -> npt.NDArray[np.float64]:
        """Score the rows of a request; float64 [rows].

        Args:
            body: Its JSON.
            large: As for `score`.

        Raises:
            NightbidError: It is refused; the message says why.
        """
        return self.rank(body, SCORE, large=large)[0]

    def answer_arrow(self, body: bytes, *, large: bool = False) -> npt.NDArray[np.float64]:
        """Score the rows of an Arrow IPC stream; as `answer`."""
        asked = arrow_rows.read(body, self.columns)
        return self.score(asked.rows, asked.shared, large=large)

    def rank_arrow(
        self, body: bytes, *, large: bool = False
    ) -> tuple[npt.NDArray[np.float64], dict[str, Any]]:
        """Score the rows of an Arrow IPC stream with bids; as `rank`."""
        asked, others = arrow_rows.read_rank(body, self.columns)
        return self.score(asked.rows, asked.shared, large=large), others

    def rank(
        self,
        body: bytes,
        decoder: msgspec.json.Decoder[Wire] | msgspec.json.Decoder[RankWire] = RANK,
        *,
        large: bool = False,
    ) -> tuple[npt.NDArray[np.float64], dict[str, Any]]:
        """Score the rows of a request, and decode what it holds besides.

        Raises:
            NightbidError: It is refused; the message says why.
        """
        if not large:
            try:
                wire = decoder.decode(body)
                others = wire.others() if isinstance(wire, RankWire) else {}
                feed = self._requests.inputs(wire.context, wire.rows)
            except Exception:  # reading it column by column says what is wrong, if anything
                self._unprepared += 1
            else:
                if len(body) <= MOST_RECENT_BYTES:
                    self.recent.append(body)
                return self._small.run(feed).astype(np.float64), others
        whole = rows.load(body, self.columns)
        asked = rows.read(whole, self.columns, KEYS if decoder is RANK else frozenset())
        return self.score(asked.rows, asked.shared, large=large), whole

    def prepare(self, bodies: Iterable[bytes]) -> None:
        """Score requests that another bundle answered, so that their values are remembered.

        Only before it serves. What this bundle cannot read is left out.
        """
        for body in bodies:
            begun = time.thread_time()
            with contextlib.suppress(Exception):
                wire = RANK.decode(body)
                self._small.run(self._requests.inputs(wire.context, wire.rows))
            time.sleep(PAUSES * (time.thread_time() - begun))

    def newly_missed(self) -> int:
        """Feature values computed, not remembered, since the last call."""
        missed = self._small.missed + self._large.missed + self._requests.missed
        new, self._reported = missed - self._reported, missed
        return new

    def newly_unprepared(self) -> int:
        """Requests whose rows were read column by column, since the last call."""
        new, self._unprepared = self._unprepared, 0
        return new


def load(champion: Champion, folder: Path) -> Served:
    """Load a bundle and score a row of nulls with it.

    Raises:
        NightbidError: It is damaged.
    """
    columns = read_columns(folder)
    served = Served(champion, Bundle.load(folder, threads=1), columns)
    nothing = pa.table([pa.nulls(1, each.type) for each in columns], schema=columns)
    served.score(nothing)
    served.score(nothing, large=True)
    return served


@dataclass(frozen=True)
class State:
    """What serves, and what stands against serving something newer."""

    served: Served | None = None
    trouble: str = ""


class Follower:
    """Keeps the champion of one pipeline in memory.

    Args:
        workspace: Holds its history.
        pipeline: Name of the pipeline.
        turn: File by which the processes of a scorer load a new champion one after the other:
            the cores are needed for requests. None: there is one process.
    """

    def __init__(self, workspace: Workspace, pipeline: str, turn: Path | None = None) -> None:
        self._workspace = workspace
        self._pipeline = pipeline
        self._turn = turn
        self._looking = threading.Lock()
        self.state = State()

    def look(self) -> State:
        """Look at the history once and follow it. Never raises: a later promotion must be seen."""
        with self._looking:
            before = self.state
            try:
                self.state = State(self._newest(before.served))
            except Exception as error:  # whatever a damaged bundle raises, the next may be sound
                trouble = " ".join(str(error).split())
                if not isinstance(error, NightbidError):
                    trouble = f"{type(error).__name__}: {trouble}"
                if trouble != before.trouble:
                    LOG.warning("%s: the newest champion is not served: %s",
                                self._pipeline, trouble)  # fmt: skip
                self.state = State(before.served, trouble)
        return self.state

    def _newest(self, served: Served | None) -> Served | None:
        pointer = ChampionPointer(self._workspace, self._pipeline)
        champion = pointer.current()
        if champion is None and served and pointer.history():
            LOG.warning("%s: the champion was retired, and nothing serves", self._pipeline)
            return None
        # The whole entry: in a history that was restored, its number may be another one's.
        if champion is None or (served and served.champion == champion):
            return served
        folder = fetch_bundle(self._workspace, champion)
        with _alone(self._turn if served else None):
            found = load(champion, folder)
        if served:
            found.prepare(tuple(served.recent))
            found.recent.extend(tuple(served.recent))
        LOG.warning("%s: champion #%d serves: %s", self._pipeline, champion.number, champion.run_id)
        return found


@contextlib.contextmanager
def _alone(turn: Path | None) -> Iterator[None]:
    if turn is None:
        yield
        return
    with turn.open("ab") as file:  # closing it, or dying, is the end of a turn
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fetch_bundle(workspace: Workspace, champion: Champion) -> Path:
    """Download the champion's bundle, if need be.

    Raises:
        CorruptDataError: It is another one than was promoted.
    """
    folder = fetch(workspace.at(champion.bundle_uri))
    manifest = Manifest.model_validate_json((folder / "manifest.json").read_text())
    if manifest.digest != champion.bundle_digest:
        raise CorruptDataError(
            f"the bundle is {manifest.digest[:12]}, promoted was {champion.bundle_digest[:12]}",
            where=champion.bundle_uri,
            hint=f"roll back, or promote another night of {champion.pipeline}",
        )
    return folder


class OneBundle:
    """Serves one bundle, whatever the champion is: for tests under load.

    Args:
        folder: An exported bundle.
        pipeline: Its pipeline.
    """

    def __init__(self, folder: Path, pipeline: str) -> None:
        self._folder, self._pipeline = folder, pipeline
        self.state = State()

    def look(self) -> State:
        """Load the bundle once.

        Raises:
            NightbidError: It is damaged.
        """
        if self.state.served is None:
            card = read_card(self._folder)
            champion = Champion(
                pipeline=self._pipeline, number=0, run_id="", night=partition_of(card.night),
                bundle_uri=str(self._folder), bundle_digest="", since=datetime.now(UTC),
                change="promote", reason="not promoted: one bundle is served",
            )  # fmt: skip
            self.state = State(load(champion, self._folder))
        return self.state
