"""Messages between a rehearsal and the processes of its two sides.

They are files: a request and an answer in JSON, and Parquet files that the answer names. Both
contain the number `CONTRACT`; a side with another number reports an error instead of guessing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from nightbid.errors import StageError
from nightbid.night.manifest import Usage

CONTRACT = 1


class Loose(BaseModel):
    """Base of messages, which ignore keys that a later version adds."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class StageAnswer(Loose):
    """Result of one stage."""

    error: str = ""
    folder: str = ""
    digest: str = ""
    files: dict[str, str] = {}
    """Path within the folder → digest; empty for files that differ between equal runs."""
    rows: int = 0
    metrics: dict[str, Any] = {}
    usage: dict[str, float] = {}
    seconds: float = 0.0

    @property
    def used(self) -> Usage:
        """Usage of the stage, with the resources that this version knows."""
        known = {name: self.usage[name] for name in Usage.model_fields if name in self.usage}
        return Usage.model_validate(known)


class NightAnswer(Loose):
    """Results of the stages for one seed."""

    error: str = ""
    spec: dict[str, Any] = {}
    stages: dict[str, StageAnswer] = {}


class WarningAnswer(Loose):
    """A deprecation warning."""

    library: str
    category: str
    text: str
    line: str
    """Line of Nightbid's code that caused it; empty if none was on the stack."""


class ProcessAnswer(Loose):
    """Answer of one process."""

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


def read_answer(path: Path) -> ProcessAnswer:
    """Read an answer.

    Raises:
        StageError: The file is not an answer, or has another contract number.
    """
    try:
        answer = ProcessAnswer.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise StageError(
            f"not an answer: {type(error).__name__}",
            where=str(path),
            hint="delete this file and run the same command again",
        ) from error
    if answer.error or answer.contract != CONTRACT:
        raise StageError(
            answer.error or f"the answer has contract {answer.contract}, not {CONTRACT}",
            where=str(path),
            hint="run the rehearsal from the newer of the two versions",
        )
    return answer
