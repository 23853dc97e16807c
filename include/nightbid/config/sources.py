"""Where a pipeline's rows come from: the typed `source` block."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from nightbid.config.base import Block
from nightbid.config.faults import Fault


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
    price: str | None = None
    """Market price: the highest competing bid, which the winner paid in second price."""
    bid: str | None = None
    """What the logging bidder bid; rows whose bid is below the floor or price are checked."""
    floor: str | None = None
    """Least price that the seller took; null is none."""
    value: str | None = None
    """Money that the labelled event brought; may be null where it did not happen."""


class SimulatorSource(Block):
    """An ad exchange of our own, whose true probabilities are known."""

    kind: Literal["simulator"] = "simulator"
    start: date = date(2026, 1, 1)
    rows_per_day: int = Field(default=60_000, ge=1)
    users: int = Field(default=20_000, ge=10)
    ads: int = Field(default=2_000, ge=10)
    seed: int = 0
    faults: tuple[str, ...] = ()
    """Faults to inject, as `kind@YYYY-MM-DD` or `kind@YYYY-MM-DD:amount`; see config/faults.py."""

    @field_validator("faults")
    @classmethod
    def _faults_are_known(cls, faults: tuple[str, ...]) -> tuple[str, ...]:
        for text in faults:
            Fault.parse(text)
        return faults


class ObdSource(Block):
    """The Open Bandit small logs (real impressions with position and propensity)."""

    kind: Literal["obd"] = "obd"
    campaign: Literal["all", "men", "women"] = "all"
    policy: Literal["random", "bts"] = "random"


class KuaiRandSource(Block):
    """Real short-video impressions, from a folder holding the KuaiRand-Pure files."""

    kind: Literal["kuairand"] = "kuairand"
    folder: str


ColumnType = Literal["string", "int", "float", "bool", "time"]


class FolderSource(Block):
    """A user's own folder of daily partitions (`dt=YYYY-MM-DD/` or one file a day)."""

    kind: Literal["parquet", "csv"]
    folder: str
    rename: dict[str, str] = Field(default_factory=dict)
    """Column of the file → column of the pipeline."""
    layout: Literal["plain", "criteo", "avazu"] = "plain"
    """Criteo and Avazu: the files as they are published (`kind: csv`)."""
    types: dict[str, ColumnType] = Field(default_factory=dict)
    """Column of the pipeline → type (csv). Others are inferred from the oldest file's start."""
    names: tuple[str, ...] = ()
    """Columns in order, for csv files without a header."""
    delimiter: str = Field(default="", max_length=1)
    """Between fields; default: a tab in *.tsv, else a comma."""
    first_day: date = date(2026, 1, 1)
    """Day of `day_0`, or of the first part of a single file (criteo)."""
    days_per_file: int = Field(default=1, ge=1, le=366)
    """Days that one uncompressed file in order of time is cut into, evenly (criteo)."""
    outcomes: tuple[str, ...] = ()
    """Columns known only after the impression: refused as features."""

    @model_validator(mode="after")
    def _layouts_are_csv(self) -> FolderSource:
        if self.layout != "plain" and (self.kind != "csv" or self.names):
            raise ValueError(
                f"layout {self.layout} needs `kind: csv` and no `names`: it has its own"
            )
        return self


Source = Annotated[
    SimulatorSource | ObdSource | KuaiRandSource | FolderSource, Field(discriminator="kind")
]
