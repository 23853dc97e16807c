"""Checkpoints: all that a training needs to go on as if it had never been killed.

The order of rows depends on the seed and the epoch alone, so beside weights, moments and random
states only the place within the epoch is kept. A checkpoint belongs to one stage key: it is never
taken up by a training with other rows, settings or code.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from nightbid.models.folder import Array


class Checkpoints:
    """One file, replaced in one step each time.

    Args:
        folder: of this training alone; None: nothing is kept.
        seconds: between checkpoints; what a kill costs at most.
        writes: whether this process keeps states; the other workers of a training only read.
    """

    def __init__(self, folder: Path | None, seconds: float, *, writes: bool = True) -> None:
        self._writes = writes and folder is not None
        self._path = folder / "checkpoint.npz" if folder else None
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
        self._path.parent.mkdir(parents=True, exist_ok=True)
        beside = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        text = np.frombuffer(json.dumps(place).encode(), np.uint8)
        with beside.open("wb") as stream:
            np.savez(stream, place=text, **arrays)  # type: ignore[arg-type]
        beside.replace(self._path)
        self._last = time.monotonic()

    def load(self) -> tuple[dict[str, Array], dict[str, Any]] | None:
        """The newest state; None where there is none, or none that can be read."""
        if self._path is None or not self._path.exists():
            return None
        try:
            with np.load(self._path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
        except (OSError, ValueError, EOFError, BadZipFile):
            return None  # a machine that lost power: training begins anew
        place: dict[str, Any] = json.loads(arrays.pop("place").tobytes())
        return arrays, place
