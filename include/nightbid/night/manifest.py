"""The manifest of a stage's output, the only information that stages pass to each other."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from nightbid.night.sealed import Sealed

Verdict = Literal["pass", "warn", "stop"]


class Usage(BaseModel):
    """Consumed resources. Sums over stages, attempts and workers; units are in the names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cpu_seconds: float = 0.0
    """CPU time of the process tree."""
    gb_seconds: float = 0.0
    """Resident memory (10^9 bytes) times time."""
    bytes_read: int = 0
    bytes_written: int = 0
    bytes_shuffled: int = 0
    accelerator_seconds: float = 0.0
    wall_seconds: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        left, right = self.model_dump(), other.model_dump()
        return Usage(**{key: left[key] + right[key] for key in left})


class FileEntry(BaseModel):
    """One file of an output."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    """Path relative to the output folder."""
    size: int
    digest: str
    """sha256 of the bytes; empty for a volatile file (pages, logs).

    Volatile files are not part of the output's digest."""
    volatile_digest: str = ""
    """sha256 of a volatile file's bytes."""


class RowCounts(BaseModel):
    """Row counts. If rows are filtered, `read == written + quarantined + repeated + dropped`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    read: int = 0
    written: int = 0
    quarantined: int = 0
    """Rows that could not be parsed and are set aside with a reason."""
    repeated: int = 0
    """Rows whose key already belongs to another row of the day."""
    dropped: int = 0
    """Rows left out on purpose: not sampled, or outside the label's condition."""


class Manifest(Sealed):
    """Manifest of a stage's output. Written last: an output without one does not exist."""

    pipeline: str
    run_id: str
    stage: str
    night: str
    """Newest day of logs, YYYY-MM-DD."""
    key: str
    """Digest of inputs, spec and code: the same key means the same output."""
    digest: str
    """Digest of the output's files, which later stages depend on."""
    inputs: dict[str, str]
    """Stage → digest of its output."""
    spec_digest: str
    code_digest: str
    versions: dict[str, str]
    seed: int
    rows: RowCounts = RowCounts()
    usage: Usage = Usage()
    metrics: dict[str, Any] = Field(default_factory=dict)
    verdict: Verdict | None = None
    """Verdict of a gate; None for other stages."""
    summary: str = ""
    """One-line summary for users."""
    files: tuple[FileEntry, ...] = ()
    created: datetime
