"""Where a pipeline's rows come from: the typed `source` block."""

from __future__ import annotations

from datetime import date
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from nightbid.config.base import Block
from nightbid.config.event_source import EventsSource
from nightbid.config.faults import Fault
from nightbid.config.folder_source import FolderSource
from nightbid.config.log_source import LogSource, PartitionedSource


class SimulatorSource(PartitionedSource):
    """A simulated ad exchange with known true probabilities."""

    kind: Literal["simulator"] = "simulator"
    start: date = date(2026, 1, 1)
    """First day of the simulated logs."""
    rows_per_day: int = Field(default=60_000, ge=1)
    """Average number of impressions per day; it varies by weekday."""
    users: int = Field(default=20_000, ge=10)
    """Number of users."""
    ads: int = Field(default=2_000, ge=10)
    """Number of ads."""
    seed: int = 0
    """Seed of the simulated world: the same seed gives the same bytes."""
    incumbent: float | None = Field(default=None, ge=0, le=5)
    """Standard deviation of a simulated legacy score. Adds a column `legacy_score`, as if another
    platform's model had served these impressions: the true click probability with normal noise of
    this standard deviation on its logit. Null: no such column."""
    competing_bids: bool = False
    """Whether to add a column `competing_bids` with the bids of the other ads in each auction,
    highest first, before any floor. With `columns.competing`, a replay under another floor is then
    exact."""
    exploration: float | None = Field(default=None, gt=0, le=10)
    """Temperature of a randomized auction, for `policy`: the shown ad is drawn with probability
    proportional to its bid to the power of 1/`exploration`. Adds the columns `propensity` (that
    probability), `candidates` (the ads that bid) and `candidates_true` (their true click
    probabilities). Null: the highest bid wins."""
    faults: tuple[str, ...] = ()
    """Faults to inject, as `kind@YYYY-MM-DD` or `kind@YYYY-MM-DD:amount`; see config/faults.py."""

    @field_validator("faults")
    @classmethod
    def _faults_are_known(cls, faults: tuple[str, ...]) -> tuple[str, ...]:
        for text in faults:
            Fault.parse(text)
        return faults


class ObdSource(LogSource):
    """The small-sized Open Bandit logs: real impressions with position and propensity."""

    kind: Literal["obd"] = "obd"
    campaign: Literal["all", "men", "women"] = "all"
    """Campaign of the data set: items for all customers, for men or for women."""
    policy: Literal["random", "bts"] = "random"
    """Logging policy: uniformly random, or Bernoulli Thompson sampling (`bts`)."""


class KuaiRandSource(LogSource):
    """Real short-video impressions, from a folder holding the KuaiRand-Pure files."""

    time_zone: ClassVar[str] = "Asia/Shanghai"
    """Time zone of the days in the files."""

    kind: Literal["kuairand"] = "kuairand"
    folder: str
    """Folder with the CSV files as published, plain or gzipped."""


def defaults_of(source: object) -> dict[str, dict[str, str | None]]:
    """Get the defaults of `columns` and `label` that depend on the source.

    Args:
        source: The `source` block, as read from the YAML or as a typed block.
    """
    plain = source.model_dump() if isinstance(source, Block) else source
    if not isinstance(plain, dict):
        return {}
    if plain.get("kind") == "obd":
        return {"columns": {"item": "item_id", "propensity": "propensity_score"}}
    if plain.get("kind") == "events":
        roles = {"key": plain.get("key", "impression_id"), "time": plain.get("time", "time")}
        return {"columns": roles, "label": {"column": "clicked"}}
    if plain.get("layout") == "criteo":  # it is unknown which of C1 to C26 is the ad
        return {"columns": {"item": None}, "label": {"column": "label"}}
    if plain.get("layout") == "avazu":
        return {"columns": {"item": "C14"}}
    if plain.get("layout") == "ipinyou":
        return {
            "columns": {
                "item": "creative_id",
                "price": "paying_price",
                "bid": "bidding_price",
                "floor": "slot_floor_price",
            }
        }
    return {}


SourceBlock = Annotated[
    SimulatorSource | ObdSource | KuaiRandSource | FolderSource | EventsSource,
    Field(discriminator="kind"),
]
