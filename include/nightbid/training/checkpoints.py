"""Checkpoints: all that a training needs to go on as if it had never been killed.

The order of rows depends on the seed and the epoch alone, so beside weights, moments and random
states only the place within the epoch is kept. A checkpoint belongs to one stage key: it is never
taken up by a training with other rows, settings or code. It lies in a folder of this machine, or in
the bucket, from where a job goes on whose machines were taken away.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from upath import UPath

from nightbid.errors import WorkspaceError
from nightbid.models.folder import Array
from nightbid.storage.workspace import local_file, replaced

log = logging.getLogger(__name__)

FILE = "checkpoint.npz"


class Checkpoints:
    """One file, replaced in one step each time.

    Args:
        folder: of this training alone; None: nothing is kept.
        seconds: between checkpoints; what a kill costs at most.
        writes: whether this process keeps states; the other workers of a training only read.
    """

    def __init__(self, folder: Path | UPath | None, seconds: float, *, writes: bool = True) -> None:
        self._writes = writes and folder is not None
        self._path = folder / FILE if folder else None
        self._seconds = seconds
        self._last = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time for the next one."""
        return self._writes and time.monotonic() - self._last >= self._seconds

    def save(self, arrays: Mapping[str, Array], place: Mapping[str, Any]) -> None:
        """Keep a state: arrays by name, and anything small as JSON."""
        if self._path is None or not self._writes:
            return
        text = np.frombuffer(json.dumps(place).encode(), np.uint8)
        try:
            with replaced(self._path) as beside, beside.open("wb") as stream:
                np.savez(stream, place=text, **arrays)  # type: ignore[arg-type]
        except WorkspaceError as error:
            # A bucket out of reach for minutes costs a checkpoint, not the training.
            log.warning("no checkpoint this time: %s", error)
        self._last = time.monotonic()

    def load(self) -> tuple[dict[str, Array], dict[str, Any]] | None:
        """The newest state; None where there is none, or none that can be read."""
        if self._path is None or not self._path.exists():
            return None
        try:
            with (
                local_file(self._path) as path,
                np.load(path, allow_pickle=False) as stored,
            ):
                arrays = {name: stored[name] for name in stored.files}
        except (OSError, ValueError, EOFError, BadZipFile):
            return None  # a machine that lost power: training starts over
        place: dict[str, Any] = json.loads(arrays.pop("place").tobytes())
        return arrays, place
