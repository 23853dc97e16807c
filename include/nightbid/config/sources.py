"""Where a pipeline's rows come from: the typed `source` block."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

from pydantic import Field

from nightbid.config.base import Block


class Columns(Block):
    """Which column of the logs plays which role. A source brings its own defaults."""

    key: str = "impression_id"
    """Identifies an impression; sampling and sharding hash it."""
    time: str = "time"
    """When the impression was served: timestamp, UTC."""
    user: str = "user_id"
    """Whose impression it is; confidence intervals resample by it."""
    item: str = "ad_id"
    """What was shown."""
    position: str | None = None
    """Slot on the page, if logged: a training-only input."""


class SimulatorSource(Block):
    """An ad exchange of our own, whose true probabilities are known."""

    kind: Literal["simulator"] = "simulator"
    start: date = date(2026, 1, 1)
    rows_per_day: int = Field(default=60_000, ge=1)
    users: int = Field(default=20_000, ge=10)
    ads: int = Field(default=2_000, ge=10)
    seed: int = 0
    faults: tuple[str, ...] = ()
    """Faults to inject, as `kind@YYYY-MM-DD` or `kind@YYYY-MM-DD:amount`."""


class ObdSource(Block):
    """The Open Bandit small logs (real impressions with position and propensity)."""

    kind: Literal["obd"] = "obd"
    campaign: Literal["all", "men", "women"] = "all"
    policy: Literal["random", "bts"] = "random"


class KuaiRandSource(Block):
    """Real short-video impressions, from a folder holding the KuaiRand-Pure files."""

    kind: Literal["kuairand"] = "kuairand"
    folder: str


class FolderSource(Block):
    """A user's own folder of daily partitions (`dt=YYYY-MM-DD/` or one file a day)."""

    kind: Literal["parquet", "csv"]
    folder: str
    rename: dict[str, str] = Field(default_factory=dict)
    """Column of the file → column of the pipeline."""
    layout: Literal["plain", "criteo", "avazu"] = "plain"


Source = Annotated[
    SimulatorSource | ObdSource | KuaiRandSource | FolderSource, Field(discriminator="kind")
]
