"""What a job of a cloud service leaves for the stage that ordered it."""

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
    """Give the folder, beside the output, of what a job is given and leaves."""
    return task.workspace.root / "jobs" / order.name


def read_result(path: UPath, order: JobRecord, kind: type[Left]) -> Left:
    """Read the object that says that a job is done.

    Raises:
        StageError: It is not there, or cannot be read.
    """
    try:
        return kind.model_validate_json(path.read_text())
    except (FileNotFoundError, ValueError) as error:
        raise StageError(
            f"job {order.job_id} is done and has left no result ({type(error).__name__})",
            where=str(path),
            hint="a rerun submits a new job",
        ) from None
