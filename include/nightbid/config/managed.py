"""Managed training: the typed `cloud.training` block of the settings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from nightbid.config.base import Block

Accelerator = Literal[
    "NVIDIA_TESLA_T4",
    "NVIDIA_TESLA_V100",
    "NVIDIA_L4",
    "NVIDIA_TESLA_A100",
    "NVIDIA_A100_80GB",
    "NVIDIA_H100_80GB",
    "NVIDIA_H200_141GB",
]


class ManagedTraining(Block):
    """Machines of Vertex AI custom jobs. With this block, `train` and `train_baseline` run there.

    The number of workers that share each batch is a key of the pipeline: `train.workers`.
    """

    image: str = Field(
        pattern=r"^[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)+(:[\w.-]+|@sha256:[0-9a-f]{64})$"
    )
    """Image built from this repository (`Dockerfile`), with tag or digest, in a registry that the
    service can read."""
    machine_type: str = Field(default="n1-standard-4", pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)+$")
    """Machine type of every worker."""
    accelerator_type: Accelerator | None = None
    accelerator_count: int = Field(default=0, ge=0, le=16)
    """Accelerators per worker."""
    spot: bool = False
    """Whether to use spot machines: cheaper, but they may be preempted. Training then resumes from
    its checkpoint."""
    max_hours: float = Field(default=24.0, gt=0, le=168)
    """Hours after which the service ends a job."""
    service_account: str | None = Field(
        default=None, pattern=r"^[a-z0-9-]+@[a-z0-9.-]+\.gserviceaccount\.com$"
    )
    """Service account of the workers; null: the service agent of Vertex AI."""
    network: str | None = Field(
        default=None, pattern=r"^projects/[0-9]+/global/networks/[a-z][a-z0-9-]*$"
    )
    """VPC network that the workers are peered with: `projects/<number>/global/networks/<name>`."""
    patience_seconds: float = Field(default=120.0, ge=0)
    """Seconds for which to retry a submission after service errors or insufficient quota."""
    endpoint: str | None = Field(default=None, pattern=r"^http://[A-Za-z0-9.-]+:[0-9]+$")
    """Address of an emulator for custom jobs and their logs; only in the profile `gcp-emulated`."""

    @model_validator(mode="after")
    def _accelerators_of_a_kind(self) -> ManagedTraining:
        if bool(self.accelerator_type) != bool(self.accelerator_count):
            raise ValueError(
                f"accelerator_type {self.accelerator_type} and accelerator_count"
                f" {self.accelerator_count} do not match: set both or neither"
            )
        return self
