"""What passes between a rehearsal and the processes of its two sides.

Files only: a request and an answer in JSON, and Parquet files that the answer names. The number
`CONTRACT` stands in both; a side that speaks another one says so instead of guessing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from nightbid.errors import StageError
from nightbid.night.manifest import Usage

CONTRACT = 1


class Loose(BaseModel):
    """Keys that a later version adds are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class StageAnswer(Loose):
    """What one stage came to."""

    error: str = ""
    folder: str = ""
    digest: str = ""
    files: dict[str, str] = {}
    """Path below the folder → digest; empty for files that differ between equal runs."""
    rows: int = 0
    metrics: dict[str, Any] = {}
    usage: dict[str, float] = {}
    seconds: float = 0.0

    @property
    def used(self) -> Usage:
        """Resources consumed, as far as this version knows them."""
        known = {name: self.usage[name] for name in Usage.model_fields if name in self.usage}
        return Usage.model_validate(known)


class NightAnswer(Loose):
    """What the stages of one seed came to."""

    error: str = ""
    spec: dict[str, Any] = {}
    stages: dict[str, StageAnswer] = {}


class WarningAnswer(Loose):
    """One warning of deprecation."""

    library: str
    category: str
    text: str
    line: str
    """Of Nightbid's own, where it was caused; empty if none was on the stack."""


class Answer(Loose):
    """What one process answers."""

    contract: int
    error: str = ""
    versions: dict[str, str] = {}
    night: NightAnswer | None = None
    metrics: dict[str, Any] | None = None
    score_own: dict[str, Any] | None = None
    score_other: dict[str, Any] | None = None
    records: dict[str, Any] | None = None
    warnings: tuple[WarningAnswer, ...] = ()
    seconds: float = 0.0


def read_answer(path: Path) -> Answer:
    """Read an answer.

    Raises:
        StageError: it is of another contract, or is not one.
    """
    try:
        found = Answer.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise StageError(
            f"not an answer: {type(error).__name__}",
            where=str(path),
            hint="delete this file and run the same command again",
        ) from error
    if found.error or found.contract != CONTRACT:
        raise StageError(
            found.error or f"the answer has contract {found.contract}, not {CONTRACT}",
            where=str(path),
            hint="run the rehearsal from the newer of the two versions",
        )
    return found
