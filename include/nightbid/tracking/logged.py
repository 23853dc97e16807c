"""Location of a run in MLflow, stored next to the run's records; pages link to it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError
from upath import UPath

from nightbid.storage.files import write_atomically
from nightbid.storage.workspace import Workspace


class Logged(BaseModel):
    """Entry of one run in a tracking store."""

    model_config = ConfigDict(frozen=True)

    store: str
    """Tracking URI of the store, without a password."""
    experiment_id: str
    run_id: str
    content: str = ""
    """Digest from `Payload.content`; empty if an older version logged the run."""

    def save(self, workspace: Workspace, pipeline: str, run_id: str) -> None:
        """Save the entry, if the run has records."""
        folder = workspace.run_folder(pipeline, run_id)
        if (folder / "run.json").exists():
            write_atomically(_path(folder), self.model_dump_json(indent=1))

    @classmethod
    def of(cls, folder: UPath) -> Logged | None:
        """Read the entry of a run; None if it was never logged.

        Args:
            folder: Folder of the run's records.
        """
        try:
            return cls.model_validate_json(_path(folder).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def page(self, address: str) -> str:
        """Return the address of the run's page in MLflow.

        Args:
            address: Address at which users open MLflow.
        """
        return f"{address.rstrip('/')}/#/experiments/{self.experiment_id}/runs/{self.run_id}"


def _path(folder: UPath) -> UPath:
    return folder / "mlflow.json"
