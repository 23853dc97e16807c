"""Results that a cloud job leaves for its stage."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel
from upath import UPath

from nightbid.errors import StageError
from nightbid.jobs.store import JobRecord
from nightbid.night.task import StageTask

Left = TypeVar("Left", bound=BaseModel)
RESULT = "result.json"


def job_folder(task: StageTask, order: JobRecord) -> UPath:
    """Get the folder, next to the output, for the inputs and results of a job."""
    return task.workspace.root / "jobs" / order.name


def read_result(path: UPath, order: JobRecord, kind: type[Left]) -> Left:
    """Read the result that a job writes at its end.

    Raises:
        StageError: The result is missing or cannot be read.
    """
    try:
        return kind.model_validate_json(path.read_text())
    except (FileNotFoundError, ValueError) as error:
        raise StageError(
            f"job {order.job_id} finished but left no result ({type(error).__name__})",
            where=str(path),
            hint="a rerun submits a new job",
        ) from None
