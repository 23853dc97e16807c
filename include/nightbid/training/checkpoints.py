"""Checkpoints: the state from which a killed training resumes as if it had never stopped.

The order of rows depends on the seed and the epoch alone, so in addition to weights, moments and
random states only the position within the epoch is stored. A checkpoint belongs to one stage key: a
training with other rows, settings or code never resumes from it. It is stored in a local folder, or
in the bucket, so that a job whose machines were preempted can resume on others.
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
from nightbid.storage.files import local_file, replaced

log = logging.getLogger(__name__)

FILE = "checkpoint.npz"


class Checkpoints:
    """Reads and writes the checkpoint of a training: one file, replaced atomically.

    Args:
        folder: Folder of this training only; None disables checkpoints.
        seconds: Time between checkpoints, and so the most work that a kill loses.
        writes: Whether this process writes checkpoints; the other workers only read them.
    """

    def __init__(self, folder: Path | UPath | None, seconds: float, *, writes: bool = True) -> None:
        self._writes = writes and folder is not None
        self._path = folder / FILE if folder else None
        self._seconds = seconds
        self._last = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time to write the next checkpoint."""
        return self._writes and time.monotonic() - self._last >= self._seconds

    def save(self, arrays: Mapping[str, Array], place: Mapping[str, Any]) -> None:
        """Write a checkpoint.

        Args:
            arrays: Arrays of the state, by name.
            place: Small values that are stored as JSON, such as the epoch and the batch.
        """
        if self._path is None or not self._writes:
            return
        text = np.frombuffer(json.dumps(place).encode(), np.uint8)
        try:
            with replaced(self._path) as temporary, temporary.open("wb") as stream:
                np.savez(stream, place=text, **arrays)  # type: ignore[arg-type]
        except WorkspaceError as error:
            # If the bucket is out of reach for minutes, skip this checkpoint and keep training.
            log.warning("no checkpoint this time: %s", error)
        self._last = time.monotonic()

    def load(self) -> tuple[dict[str, Array], dict[str, Any]] | None:
        """Return the latest checkpoint's arrays and JSON; None if it is missing or unreadable."""
        if self._path is None or not self._path.exists():
            return None
        try:
            with (
                local_file(self._path) as path,
                np.load(path, allow_pickle=False) as stored,
            ):
                arrays = {name: stored[name] for name in stored.files}
        except (OSError, ValueError, EOFError, BadZipFile):
            return None  # truncated, as after a power loss: training starts over
        place: dict[str, Any] = json.loads(arrays.pop("place").tobytes())
        return arrays, place
