"""What an installation in a cloud is made of: the typed `cloud` block of the settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from nightbid.config.base import Block

Profile = Literal["local", "gcp", "gcp-emulated"]
"""`gcp-emulated` speaks the same protocols to servers on a machine of yours."""
Endpoint = Annotated[str, Field(pattern=r"^http://[A-Za-z0-9.-]+:[0-9]+$")]


class Cloud(Block):
    """A Google Cloud project and what it lends to the pipelines."""

    project: str = Field(pattern=r"^[a-z][a-z0-9-]{4,28}[a-z0-9]$")
    region: str = Field(pattern=r"^[a-z]+-[a-z]+[0-9]+$")
    bucket: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]$")
    """The workspace's bucket."""
    storage_endpoint: Endpoint | None = None
    """Of an emulator of Cloud Storage; only in the profile `gcp-emulated`."""
    poll_seconds: float = Field(default=10.0, gt=0)
    """Between two looks at a job that works for a stage."""
