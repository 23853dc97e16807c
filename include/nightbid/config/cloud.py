"""Cloud resources of an installation: the typed `cloud` block of the settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from nightbid.config.base import Block
from nightbid.config.managed import ManagedTraining

CloudProfile = Literal["local", "gcp", "gcp-emulated"]
"""Where stages run: `gcp-emulated` uses the protocols of `gcp` with servers on this machine."""
EmulatorEndpoint = Annotated[str, Field(pattern=r"^http://[A-Za-z0-9.-]+:[0-9]+$")]
DataflowEndpoint = Annotated[str, Field(pattern=r"^(http://localhost|https://[a-z0-9.-]+):[0-9]+$")]
"""Address of a Dataflow emulator. Beam uses unencrypted REST only with a host named `localhost`;
with all other hosts it uses gRPC, as with Google."""
Account = Annotated[str, Field(pattern=r"^[a-z0-9-]+@[a-z0-9.-]+\.gserviceaccount\.com$")]
LabelName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
LabelValue = Annotated[str, Field(pattern=r"^[a-z0-9_-]{0,63}$")]


class Dataflow(Block):
    """Featurization on Google Cloud Dataflow. Without this block it runs on the task's machine."""

    image: str | None = None
    """SDK container image with this package and its dependencies (`worker.Dockerfile`); required
    in the profile `gcp`."""
    service_account: Account | None = None
    """Service account of the workers; default: the project's default account."""
    network: str | None = Field(default=None, pattern=r"^[a-z][a-z0-9-]{0,62}$")
    """Name of the workers' network; not needed with `subnetwork`."""
    subnetwork: str | None = Field(
        default=None, pattern=r"^(https://.+/)?regions/[a-z0-9-]+/subnetworks/[a-z0-9-]+$"
    )
    """Subnetwork of the workers: `regions/<region>/subnetworks/<name>`, or the full URL of a
    subnetwork in a shared VPC."""
    public_ips: bool = False
    """Whether workers have public addresses; if not, the subnetwork needs Private Google Access."""
    machine_type: str = Field(default="n2-standard-4", pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)+$")
    """Machine type of the workers."""
    disk_gb: int = Field(default=50, ge=30)
    """Disk size of each worker, in GB."""
    workers: int | None = Field(default=None, ge=1)
    """Initial number of workers; default: the service decides."""
    max_workers: int = Field(default=20, ge=1)
    """Maximum number of workers."""
    autoscaling: bool = True
    """Whether the service chooses the number of workers; otherwise it is `workers`."""
    flexrs: Literal["cost", "speed"] | None = None
    """Flexible resource scheduling: the job may wait up to six hours and runs partly on preemptible
    machines (`cost`), the only spot machines that a batch job can have."""
    service_options: tuple[str, ...] = ()
    """Service options, passed to Dataflow unchanged (`enable_prime`, …)."""
    endpoint: DataflowEndpoint | None = None
    """Address of an emulator: `http://localhost:port` speaks REST, `https://127.0.0.1:port`
    gRPC. Only in the profile `gcp-emulated`."""

    @model_validator(mode="after")
    def _workers_fit(self) -> Dataflow:
        if self.workers is not None and self.workers > self.max_workers:
            raise ValueError(f"workers {self.workers} is above max_workers {self.max_workers}")
        if not self.autoscaling and self.workers is None:
            raise ValueError("autoscaling is off, so workers must be set")
        if self.flexrs and not self.autoscaling:
            raise ValueError("flexrs needs autoscaling: true")
        return self


class Cloud(Block):
    """A Google Cloud project and its resources for the pipelines."""

    project: str = Field(pattern=r"^[a-z][a-z0-9-]{4,28}[a-z0-9]$")
    region: str = Field(pattern=r"^[a-z]+-[a-z]+[0-9]+$")
    bucket: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]$")
    """Cloud Storage bucket that holds the workspace."""
    storage_endpoint: EmulatorEndpoint | None = None
    """Address of an emulator of Cloud Storage; only in the profile `gcp-emulated`."""
    dataflow: Dataflow | None = None
    training: ManagedTraining | None = None
    labels: dict[LabelName, LabelValue] = Field(default_factory=dict)
    """Labels of every job, in addition to pipeline, run and stage."""
    poll_seconds: float = Field(default=10.0, gt=0)
    """Seconds between two polls of a running job."""

    @model_validator(mode="after")
    def _same_region(self) -> Cloud:
        subnetwork = self.dataflow.subnetwork if self.dataflow else None
        if subnetwork and f"regions/{self.region}/" not in subnetwork:
            raise ValueError(f"dataflow.subnetwork {subnetwork!r} is not in region {self.region}")
        return self
