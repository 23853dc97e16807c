"""The champion in memory, and how it is followed.

A promotion or a rollback is noticed within the polling interval. The new bundle is loaded and has
scored a row before it takes over, in one step; requests under way end on the bundle that they
began with. A bundle that cannot be loaded changes nothing: the one before goes on, and says why.
"""

from __future__ import annotations

import logging
import queue
import threading
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nightbid.errors import CorruptDataError, NightbidError
from nightbid.night.champion import Champion, ChampionPointer
from nightbid.night.manifest import Manifest
from nightbid.serving.bundle import Bundle, read_columns
from nightbid.storage.workspace import Workspace, fetch

LOG = logging.getLogger(__name__)


class Served:
    """One champion's bundle, ready for several threads at once.

    Args:
        champion: entry of the history that it is.
        bundle: its model and features.
        columns: names and types of the raw columns that it reads.
        threads: that may score at the same time.
    """

    def __init__(
        self, champion: Champion, bundle: Bundle, columns: pa.Schema, threads: int
    ) -> None:
        self.champion = champion
        self.columns = columns
        self.architecture = bundle.card.architecture
        # Looked-up values are kept by each thread's own twin.
        self._idle: queue.SimpleQueue[Bundle] = queue.SimpleQueue()
        for _ in range(threads):
            self._idle.put(bundle.twin())

    def score(self, raw: pa.Table) -> npt.NDArray[np.float64]:
        """Score raw rows: exactly what the bundle says of them; float64 [rows].

        Raises:
            NightbidError: a feature cannot be made of them.
        """
        bundle = self._idle.get()
        try:
            return bundle.score(raw)
        finally:
            self._idle.put(bundle)


@dataclass(frozen=True)
class State:
    """What serves, and what stands against serving something newer."""

    served: Served | None = None
    trouble: str = ""


class Follower:
    """Keeps the champion of one pipeline in memory.

    Args:
        workspace: where its history lies.
        pipeline: whose.
        threads: that may score at the same time.
    """

    def __init__(self, workspace: Workspace, pipeline: str, *, threads: int) -> None:
        self._workspace = workspace
        self._pipeline = pipeline
        self._threads = threads
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
        champion = ChampionPointer(self._workspace, self._pipeline).current()
        if champion is None or (served and served.champion.number == champion.number):
            return served
        folder = fetch(self._workspace.at(champion.bundle_uri))
        manifest = Manifest.model_validate_json((folder / "manifest.json").read_text())
        if manifest.digest != champion.bundle_digest:
            raise CorruptDataError(
                f"the bundle is {manifest.digest[:12]}, promoted was {champion.bundle_digest[:12]}",
                where=champion.bundle_uri,
                hint=f"roll back, or promote another night of {self._pipeline}",
            )
        columns = read_columns(folder)
        found = Served(champion, Bundle.load(folder, threads=1), columns, self._threads)
        found.score(pa.Table.from_arrays([pa.nulls(1, each.type) for each in columns],
                                         schema=columns))  # fmt: skip
        LOG.warning("%s: champion #%d serves: %s", self._pipeline, champion.number, champion.run_id)
        return found
