"""Thresholds of a pipeline's gates: the typed `gates` block.

Every threshold is a `Limit` named after the statistic that it bounds; the defaults stand in
`nightbid.config.gate_limits`. `nightbid gates propose` learns narrower ones, per column, into
`pipelines/suites/<pipeline>.yaml`, which is read as `gates.bands`, `gates.overrides` and
`gates.seed_noise`.
"""

from __future__ import annotations

from datetime import date, datetime
from fnmatch import fnmatchcase
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from nightbid.config.base import Block
from nightbid.config.explain import suggestion
from nightbid.config.gate_limits import (
    CostGate,
    FeaturesGate,
    GateLimits,
    Limit,
    ModelGate,
    Range,
    RawGate,
    ServingGate,
    ValueGate,
)
from nightbid.partitions import Partition


def _known_gate(name: str) -> str:
    if name not in GATES:
        hint = suggestion(name, GATES) or f"gates: {', '.join(GATES)}"
        raise ValueError(f"no gate called {name!r}; {hint}")
    return name


def _list_gates(schema: dict[str, Any]) -> None:
    schema["enum"] = list(GATES)


GateName = Annotated[str, AfterValidator(_known_gate), Field(json_schema_extra=_list_gates)]
"""Name of a gate: the field of `Gates` that holds its limits."""


def statistics_of(gate: GateName) -> list[str]:
    """List the names of the statistics that a gate has limits for, in the order of its block."""
    block: type[Block] = type(getattr(Gates(), gate))
    return [name for name, field in block.model_fields.items() if field.annotation is Limit]


class Band(Block):
    """A learned or hand-written limit that replaces the general limit of a statistic."""

    gate: GateName
    """Gate that computes the statistic."""
    statistic: str
    """Name of the statistic, `name` or `name:column`, as gate pages show it."""
    columns: tuple[str, ...] = ()
    """Columns that share the band, as an alternative to one band per `name:column`."""
    warn: Range | None = None
    """Range outside of which the gate warns, `[low, high]`; null is open."""
    stop: Range | None = None
    """Range outside of which the gate stops the night, `[low, high]`; null is open."""
    why: str = ""
    """Reason for the band; not evaluated."""

    @model_validator(mode="after")
    def _statistic_is_one_of_its_gate(self) -> Band:
        known = statistics_of(self.gate)
        family, _, column = self.statistic.partition(":")
        if family not in known:
            hint = suggestion(family, known)
            raise ValueError(
                f"the {self.gate} gate has no statistic {family!r}" + (f"; {hint}" if hint else "")
            )
        if column and self.columns:
            raise ValueError(f"{self.statistic!r} already names a column, in addition to `columns`")
        return self

    @property
    def statistics(self) -> tuple[str, ...]:
        """Names of the statistics that the band limits, as gate pages show them."""
        return tuple(f"{self.statistic}:{column}" for column in self.columns) or (self.statistic,)

    @property
    def limit(self) -> Limit:
        """The ranges `warn` and `stop` as a limit."""
        return Limit(warn=self.warn, stop=self.stop)


class Override(Block):
    """A user's decision to let a check pass until a date."""

    gate: GateName
    """Gate that the check belongs to."""
    check: str
    """Name of a statistic as gate pages show it; `*` matches any text."""
    name: str = Field(min_length=2)
    """Person who takes responsibility."""
    reason: str = Field(min_length=8)
    """Why the check may fail; every page with the check shows it."""
    until: date
    """Last night on which the override applies; with hourly partitions, the last day."""

    def holds_on(self, night: date) -> bool:
        """Whether the override applies on a night."""
        return (night.date() if isinstance(night, datetime) else night) <= self.until

    def lets_pass(self, statistic: str) -> bool:
        """Whether the override covers a statistic."""
        return fnmatchcase(statistic, self.check)

    @model_validator(mode="after")
    def _check_is_one_of_its_gate(self) -> Override:
        known = statistics_of(self.gate)
        family = self.check.partition(":")[0]
        if not any(fnmatchcase(name, family) for name in known):
            hint = suggestion(family, known)
            raise ValueError(
                f"the {self.gate} gate has no check {self.check!r}" + (f"; {hint}" if hint else "")
            )
        return self


class SeedNoise(Block):
    """Spread between trainings that differ only in their seed; see `nightbid gates noise`."""

    night: Partition
    """Newest day of the rows that the models were trained and evaluated on."""
    seeds: tuple[int, ...] = Field(min_length=2)
    """Seeds of the trainings that were compared."""
    auc: float = Field(ge=0)
    """Standard deviation of the AUC between seeds."""
    normalized_entropy: float = Field(ge=0)
    """Standard deviation of the normalized entropy between seeds."""
    model: str
    """Digest of the `model`, `train` and `label` blocks that the spread was measured with."""


class Gates(Block):
    """Thresholds of all gates of a pipeline.

    Set a limit as `psi: {warn: [null, 0.2], stop: [null, 0.5]}`: outside of its range
    `[low, high]` the check warns or stops the night; null is open.
    """

    raw: RawGate = RawGate()
    features: FeaturesGate = FeaturesGate()
    model: ModelGate = ModelGate()
    serving: ServingGate = ServingGate()
    cost: CostGate = CostGate()
    value: ValueGate = ValueGate()
    bands: tuple[Band, ...] = ()
    overrides: tuple[Override, ...] = ()
    seed_noise: SeedNoise | None = None
    warnings_expire_after: int | None = Field(default=14, ge=1, le=28)
    """Number of consecutive nights that a check may warn before it stops the night; null:
    unlimited."""
    notify: str | None = None
    """Function `package.module:function` that is called with the verdict when a gate stops the
    night. It cannot change the verdict."""

    def live_overrides(self, gate: str, night: date) -> list[Override]:
        """List the overrides of a gate that apply on a night, in the order of the YAML."""
        return [
            override
            for override in self.overrides
            if override.gate == gate and override.holds_on(night)
        ]

    def bands_of(self, gate: str) -> dict[str, Limit]:
        """Map each statistic of a gate that has a band to the band's limit."""
        return {
            statistic: band.limit
            for band in self.bands
            if band.gate == gate
            for statistic in band.statistics
        }

    def stops_at(self, gate: GateName, statistic: str, night: date) -> Range | None:
        """Get the range outside of which a statistic stops a night.

        Args:
            gate: Gate that computes the statistic.
            statistic: Name of the statistic, `name` or `name:column`. A band with exactly this name
                replaces the general limit.
            night: Date of the night, which decides the overrides that apply.

        Returns:
            Range `[low, high]`, where None is open; None if there is no stop limit or an override
            applies.
        """
        if any(override.lets_pass(statistic) for override in self.live_overrides(gate, night)):
            return None
        general: Limit = getattr(getattr(self, gate), statistic.partition(":")[0])
        return self.bands_of(gate).get(statistic, general).stop


GATES: tuple[str, ...] = tuple(
    name
    for name, field in Gates.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, GateLimits)
)
"""Names of all gates: the fields of `Gates` that hold limits."""
