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
        raise ValueError(f"there is no gate {name!r}; {hint}")
    return name


def _list_gates(schema: dict[str, Any]) -> None:
    schema["enum"] = list(GATES)


GateName = Annotated[str, AfterValidator(_known_gate), Field(json_schema_extra=_list_gates)]
"""Name of a gate: a field of `Gates` that holds its limits."""


def statistics_of(gate: GateName) -> list[str]:
    """Names of the statistics that a gate has limits for, in the order of its block."""
    block: type[Block] = type(getattr(Gates(), gate))
    return [name for name, each in block.model_fields.items() if each.annotation is Limit]


class Band(Block):
    """A learned or hand-written limit for a statistic, in place of the general one."""

    gate: GateName
    """Gate that computes the statistic."""
    statistic: str
    """`name` or `name:column`, as gate pages show them."""
    columns: tuple[str, ...] = ()
    """Columns that share the band, instead of one `name:column` each."""
    warn: Range | None = None
    """Range outside of which the gate warns, `[low, high]`; null is open."""
    stop: Range | None = None
    """Range outside of which the gate stops the night, `[low, high]`."""
    why: str = ""
    """Reason for the band, for readers."""

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
            raise ValueError(f"{self.statistic!r} names a column already, beside `columns`")
        return self

    @property
    def statistics(self) -> tuple[str, ...]:
        """Each that it limits, as gate pages show them."""
        return tuple(f"{self.statistic}:{each}" for each in self.columns) or (self.statistic,)

    @property
    def limit(self) -> Limit:
        """The two ranges."""
        return Limit(warn=self.warn, stop=self.stop)


class Override(Block):
    """A person's decision to let a check pass until a date."""

    gate: GateName
    """Gate of the check."""
    check: str
    """A statistic as pages show it; `*` matches any text."""
    name: str = Field(min_length=2)
    """Person who takes responsibility."""
    reason: str = Field(min_length=8)
    """Why the check may fail; shown on every page."""
    until: date
    """Last night on which it applies; of logs of hours, the last day."""

    def holds_on(self, night: date) -> bool:
        """Whether it applies on a night."""
        return (night.date() if isinstance(night, datetime) else night) <= self.until

    def lets_pass(self, statistic: str) -> bool:
        """Whether it is of a statistic."""
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
    """Spread of trainings that differ only in their seed; see `nightbid gates noise`."""

    night: Partition
    """Newest day of the rows that all were trained and evaluated on."""
    seeds: tuple[int, ...] = Field(min_length=2)
    """Seeds of the trainings that were compared."""
    auc: float = Field(ge=0)
    """Standard deviation of the AUC."""
    normalized_entropy: float = Field(ge=0)
    """Standard deviation of the normalized entropy."""
    model: str
    """Digest of the `model`, `train` and `label` blocks it was measured with."""


class Gates(Block):
    """Thresholds of every gate of a pipeline.

    A limit is set as `psi: {warn: [null, 0.2], stop: [null, 0.5]}`: outside of `[low, high]` the
    check warns, or stops the night; null is open.
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
    """Number of consecutive nights a check may warn before it stops; null: unlimited."""
    notify: str | None = None
    """`package.module:function`, called with the verdict when a gate stops; it cannot change it."""

    def live_overrides(self, gate: str, night: date) -> list[Override]:
        """Overrides of a gate that apply on a night, in their order."""
        return [each for each in self.overrides if each.gate == gate and each.holds_on(night)]

    def bands_of(self, gate: str) -> dict[str, Limit]:
        """Statistic of a gate → the limit that its band puts in place of the general one."""
        return {
            statistic: band.limit
            for band in self.bands
            if band.gate == gate
            for statistic in band.statistics
        }

    def stops_at(self, gate: GateName, statistic: str, night: date) -> Range | None:
        """Range outside of which a statistic stops a night.

        Args:
            gate: That computes it.
            statistic: `name` or `name:column`; a band of that very name replaces the limit.
            night: Overrides hold up to their `until`.

        Returns:
            `[low, high]`, either open; None where nothing stops it, or an override lets it pass.
        """
        if any(each.lets_pass(statistic) for each in self.live_overrides(gate, night)):
            return None
        general: Limit = getattr(getattr(self, gate), statistic.partition(":")[0])
        return self.bands_of(gate).get(statistic, general).stop


GATES: tuple[str, ...] = tuple(
    name
    for name, field in Gates.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, GateLimits)
)
"""Every gate, by the fields of `Gates` that hold limits."""
