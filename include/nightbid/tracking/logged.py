"""Where a run is in MLflow, kept beside the run's records: what pages link to."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError
from upath import UPath

from nightbid.storage.workspace import Workspace, write_atomically


class Logged(BaseModel):
    """The entry of one run in a tracking store."""

    model_config = ConfigDict(frozen=True)

    store: str
    """Tracking URI that it was logged to."""
    experiment_id: str
    run_id: str
    content: str = ""
    """Of the payload, see `Payload.content`; empty where an older version logged it."""

    def save(self, workspace: Workspace, pipeline: str, run_id: str) -> None:
        """Note it, if there are records of the run."""
        folder = workspace.run_folder(pipeline, run_id)
        if (folder / "run.json").exists():
            write_atomically(_path(folder), self.model_dump_json(indent=1))

    @classmethod
    def of(cls, folder: UPath) -> Logged | None:
        """Read what was noted of a run; None if it was never logged.

        Args:
            folder: of the run's records.
        """
        try:
            return cls.model_validate_json(_path(folder).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def page(self, address: str) -> str:
        """Its page in MLflow.

        Args:
            address: where a person sees MLflow.
        """
        return f"{address.rstrip('/')}/#/experiments/{self.experiment_id}/runs/{self.run_id}"


def _path(folder: UPath) -> UPath:
    return folder / "mlflow.json"
