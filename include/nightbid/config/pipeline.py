"""A pipeline: one YAML file, one typed object, one nightly DAG."""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import Field, ValidationInfo, field_validator, model_validator

from nightbid.config.arrival import Arrival
from nightbid.config.base import Block
from nightbid.config.columns import Columns
from nightbid.config.consistency import PRESETS, faults_of, names_of
from nightbid.config.costs import Budget
from nightbid.config.evaluate import Evaluate
from nightbid.config.event_source import JOINED
from nightbid.config.features import Feature
from nightbid.config.gates import Gates
from nightbid.config.models import Baseline, Model, Train
from nightbid.config.policy import Policy
from nightbid.config.replay import Replay
from nightbid.config.serve import LoadTest, Serve
from nightbid.config.sources import SimulatorSource, SourceBlock, defaults_of
from nightbid.config.window import LONGEST_DAYS, Window
from nightbid.errors import ConfigError
from nightbid.partitions import (
    STEPS,
    HourPartition,
    Partition,
    Unit,
    containing,
    days_as_partitions,
    end_of,
)

FeatureName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,79}$")]
"""Name of a feature, which files and model inputs also carry."""
Split = Literal["history", "train", "validate", "evaluate", "young"]
SPLITS: tuple[Split, ...] = ("train", "validate", "evaluate")
"""Splits that models are trained, validated and evaluated on."""
READ_SPLITS: tuple[Split, ...] = ("history", *SPLITS, "young")
"""All splits that a night reads. Only rates, counts and recent items learn from `history` and from
`young` days, whose labels are not final."""
CRON_FIELD = re.compile(r"[\w*,/#-]+")
CRON_MOST = (59, 23, 31, 12, 7)
"""Largest minute, hour, day, month and weekday of a cron expression."""


class Label(Block):
    """What the model predicts, and when it is known."""

    column: str = "click"
    """Column of the label: 0/1 or boolean; with `positive: known`, any column; with `kind: value`,
    numbers of at least 0."""
    kind: Literal["binary", "value"] = "binary"
    """What models predict. `binary`: the probability of label 1. `value`: the expected value of the
    column, such as seconds watched or revenue; most rows may be 0."""
    distribution: Literal["zero_inflated_lognormal", "tweedie"] = "tweedie"
    """With `kind: value`, the loss. `tweedie`: Tweedie deviance of power 1.5, which only requires
    the mean to be right. `zero_inflated_lognormal` (ZILN), for long tails: the probability of a
    value above 0 and a log-normal distribution of such values. Boosted trees support only
    `tweedie`."""
    positive: Literal["one", "known"] = "one"
    """Which rows have label 1. `one`: rows where the column is 1. `known`: rows where the column
    has a value, such as the time of a conversion or the id of an order; null, false, empty texts
    and numbers up to 0 do not count as a value."""
    texts: dict[str, Literal[0, 1]] = Field(default_factory=dict)
    """More texts for the values of the label and of `given`, in addition to 0, 1, true and false,
    in any case: `{"yes": 1, "no": 0}`. Quote them, since a bare yes is true in YAML."""
    given: str | None = None
    """0/1 column that the label is conditional on: only rows where it is 1 are used (post-click
    conversion: `given: click`)."""
    entire_space: bool = False
    """With `given`: whether to keep all rows. The label is then 1 where both columns are 1, and
    models predict the probability of both (post-view conversion), without the bias of learning from
    clicks only."""
    event_time: str | None = None
    """Column with the time of the labeled event, for delayed labels; null values mean that it did
    not happen."""
    attribution_days: int = Field(default=0, ge=0, le=LONGEST_DAYS)
    """Number of days after the impression until a label is final. Younger days are not used, except
    by `young_days`."""
    young_days: Literal["left_out", "elapsed_time"] = "left_out"
    """How days without final labels are used. `left_out`: not at all. `elapsed_time`: with
    `train.refit`, the served model also learns them, by the elapsed-time likelihood: a row of age e
    is seen as positive with probability p · G(e), where G is the share of positives that are known
    by that age."""
    delay_by: str | None = None
    """With `young_days: elapsed_time`: column of the logs that groups rows by the delay of their
    positives, such as the category of the ad; each of its values has its own mean delay in G."""

    @field_validator("texts", mode="before")
    @classmethod
    def _texts_are_quoted(cls, texts: object) -> object:
        if isinstance(texts, dict) and any(isinstance(text, bool) for text in texts):
            raise ValueError(
                'write the texts in quotation marks, {"yes": 1, "no": 0}: a bare yes or no is true'
                " or false in YAML"
            )
        return texts


class Sampling(Block):
    """Which rows of the training days are used."""

    negative_rate: float = Field(default=1.0, gt=0, le=1)
    """Share of negatives to keep; each kept negative gets weight 1/rate."""
    frozen: str = ""
    """Name of a frozen data set (`nightbid data freeze`) to use instead of the logs."""


class Runner(Block):
    """Execution of sampling and featurization. A bare word is its kind: `runner: dask`."""

    kind: Literal["direct", "dask"] = "direct"
    """`direct`: threads of the stage's process. `dask`: Dask worker processes, local or remote. An
    installation can use Google Cloud Dataflow instead (`cloud.dataflow` in its settings)."""
    workers: int = Field(default=2, ge=1)
    """Number of threads, processes or machines."""
    scheduler: str = ""
    """Address `tcp://host:port` of a running Dask scheduler. Its workers must have this package and
    access to the workspace. Empty: the stage starts `workers` local processes."""

    @model_validator(mode="before")
    @classmethod
    def _spelled_out(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value


class PipelineSpec(Block):
    """Settings of one nightly pipeline."""

    pipeline: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")
    """Name of the pipeline, equal to the file name; also the name of its DAG, runs and champion."""
    description: str = ""
    """One-line description, shown in Airflow."""
    owner: str = "ads-ml"
    """Owning team, shown in Airflow."""
    access: dict[str, Literal["read", "edit"]] = Field(default_factory=dict)
    """Airflow role → permission on the DAG and pages of this pipeline, in addition to roles that
    may see every DAG. Needs Airflow's FAB login."""
    schedule: str | None = None
    """Cron expression in UTC, at most once per partition of the logs: once a day, once an hour with
    `source.partition: hour`, once a week with `week`. With daily partitions, a slower schedule such
    as `@weekly` trains on the window that ends on the day before. Null: only manual runs."""
    start_date: dt.date = dt.date(2026, 1, 8)
    """First night of the schedule."""
    source: SourceBlock = SimulatorSource()
    """Where the logs come from."""
    arrival: Arrival | None = None
    """When a day of logs is complete, and how long a night waits for it; null: it does not wait."""
    columns: Columns = Columns()
    label: Label = Label()
    sampling: Sampling = Sampling()
    window: Window = Window()
    features: dict[FeatureName, Feature] = Field(min_length=1)
    """Name → feature. A bare word is a transform: `device_type: vocabulary`. A block without
    `transform` is a vocabulary."""
    model: Model = Model()
    baseline: Baseline = Baseline(architecture="logistic_regression")
    """Reference to beat on the first night, and for comparison later: a model, or (`column`) the
    score of another platform in the logs."""
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    replay: Replay | None = None
    """Bid by the predictions on logged market prices and report the surplus; null: not done."""
    policy: Policy | None = None
    """Estimate the label rate if the predictions had chosen the items, from logs with propensities
    (`columns.propensity`); null: not done."""
    load_test: LoadTest = LoadTest()
    serve: Serve | None = None
    """Latency and rate that the scorer must sustain, measured over its socket; null: not
    measured."""
    gates: Gates = Gates()
    budget: Budget = Budget()
    runner: Runner = Runner()
    approval: bool = False
    """Whether a user must approve the promotion in Airflow."""
    approval_hours: float = Field(default=20, gt=0, le=168)
    """Hours to wait for the approval; without an answer the champion stays."""
    seed: int = 0
    """Seed of all random draws: the same seed gives the same night."""

    @field_validator("schedule")
    @classmethod
    def _is_a_schedule(cls, schedule: str | None) -> str | None:
        fields = (schedule or "").split()
        is_cron = len(fields) == len(CRON_MOST) and all(
            CRON_FIELD.fullmatch(field)
            and all(int(number) <= most for number in re.findall(r"\d+", field))
            for field, most in zip(fields, CRON_MOST, strict=True)
        )
        if schedule is not None and not is_cron and schedule not in PRESETS["hour"]:
            raise ValueError(
                f"{schedule!r} is not a schedule; write five fields of cron, for example"
                f' "0 3 * * *", or one of {", ".join(PRESETS["hour"])}'
            )
        return schedule

    @model_validator(mode="before")
    @classmethod
    def _formats_bring_defaults(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        brought = {}
        usual = dict(defaults_of(value.get("source")))
        if isinstance(value.get("label"), dict) and value["label"].get("kind") == "value":
            # With neither loss does the mean prediction equal the mean value, so calibrate it.
            usual["train"] = {"calibration": "rate"}
        for block, defaults in usual.items():
            own = value.get(block, {})
            if isinstance(own, dict):
                brought[block] = {**defaults, **own}
        source, label = value.get("source"), brought.get("label")
        plain = source if isinstance(source, dict) and source.get("kind") == "events" else None
        if plain and label and (when := JOINED.get(str(label["column"]))):
            # A joined label is known once the attribution window of its events has ended.
            final = {"attribution_days": plain.get("attribution_days", 1)}
            if label.get("kind") != "value":  # the join has already ended the sum of a value
                final["event_time"] = when
            brought["label"] = {**final, **label}
        return {**value, **brought}

    @model_validator(mode="after")
    def _blocks_agree(self, info: ValidationInfo) -> PipelineSpec:
        alone = bool(info.context and info.context.get("alone"))
        if faults := () if alone else tuple(faults_of(self)):
            raise ValueError("\n".join(faults))
        return self

    @property
    def partition(self) -> Unit:
        """Unit by which the logs are partitioned."""
        unit: Unit = getattr(self.source, "partition", "day")
        return unit

    def partition_at(self, moment: dt.date) -> dt.date:
        """Get the partition that contains a day or an hour.

        With hourly partitions, a plain day gives its last hour.

        Raises:
            ConfigError: `moment` is an hour, but the logs are partitioned by days or weeks.
        """
        if isinstance(moment, HourPartition) and self.partition != "hour":
            raise ConfigError(
                f"{moment} is an hour, but the logs of {self.pipeline} are partitioned by"
                f" {self.partition}s",
                where="--date",
                hint="write YYYY-MM-DD, or set source.partition: hour",
            )
        begins = getattr(self.source, "week_begins", "monday")
        return containing(moment, self.partition, begins)

    def first_partition(self, day: dt.date) -> dt.date:
        """Get the first partition that begins on a day or later."""
        start = dt.datetime(day.year, day.month, day.day)
        first = self.partition_at(start)
        return first + STEPS["week"] if self.partition == "week" and first < day else first

    def newest_complete(self, moment: dt.datetime) -> dt.date:
        """Get the newest partition that has ended at a moment; days and weeks are in UTC."""
        zone = getattr(self.source, "time_zone", "UTC") if self.partition == "hour" else "UTC"
        return self.partition_at(moment.astimezone(ZoneInfo(zone))) - STEPS[self.partition]

    def arrival_deadline(self, night: dt.date) -> dt.datetime | None:
        """Get the time at which a night stops waiting for its newest partition.

        None if the pipeline has no `arrival` block.
        """
        if self.arrival is None:
            return None
        clock = dt.time.fromisoformat(self.arrival.deadline)
        after = dt.datetime.combine(dt.date.min, clock) - dt.datetime.min
        return end_of(night, self.partition) + after

    def position_inputs(self) -> list[str]:
        """List the features that read the position and are not `training_only`."""
        position = self.columns.position
        return [
            name
            for name, feature in self.features.items()
            if position and not feature.training_only and position in feature.sources(name)
        ]


def named_columns(spec: PipelineSpec) -> frozenset[str]:
    """Get the columns of the logs that roles, label, features and slices name."""
    places = [(place, name) for place, name in names_of(spec) if place != "a feature" and name]
    return frozenset(name for _, name in places)


class Night(Block):
    """The partitions (days, hours or weeks) of one run, by split."""

    date: Partition
    """Newest complete partition of the logs, which names the night."""
    train: tuple[Partition, ...]
    validate_: tuple[Partition, ...] = Field(alias="validate")
    evaluate: tuple[Partition, ...]
    history: tuple[Partition, ...] = ()
    """Days before `train` that only feed features of the past, such as `target_rate`."""
    young: tuple[Partition, ...] = ()
    """Days after `evaluate` whose labels are not final; only the served model learns them."""

    @classmethod
    def of(cls, spec: PipelineSpec, newest: dt.date) -> Night:
        """Split the window that ends on `newest`, or on the newest day whose labels are final.

        Args:
            spec: Pipeline whose window to split.
            newest: Newest partition, or a day in it.

        Raises:
            ConfigError: The window begins before year 1 or ends after year 9999.
        """
        try:
            return cls._split(spec, spec.partition_at(newest))
        except OverflowError:
            raise ConfigError(
                f"the window of {newest} is outside the calendar",
                where="--date",
                hint="use a date between the years 100 and 9900",
            ) from None

    @classmethod
    def _split(cls, spec: PipelineSpec, newest: dt.date) -> Night:
        window, step = spec.window, STEPS[spec.partition]
        until_final = days_as_partitions(spec.label.attribution_days, spec.partition)
        last = newest - (until_final + window.lag_days) * step
        total = window.train_days + window.validate_days + window.evaluate_days
        days = [last - back * step for back in range(total - 1, -1, -1)]
        before = [days[0] - back * step for back in range(window.history_days, 0, -1)]
        first, second = window.train_days, window.train_days + window.validate_days
        return cls(
            date=newest,
            train=tuple(days[:first]),
            validate=tuple(days[first:second]),
            evaluate=tuple(days[second:]),
            history=tuple(before),
            young=()
            if spec.label.young_days == "left_out"
            else tuple(last + ahead * step for ahead in range(1, until_final + 1)),
        )

    def days(self, split: Split) -> tuple[dt.date, ...]:
        """Get the days of one split, oldest first."""
        return {
            "history": self.history,
            "train": self.train,
            "validate": self.validate_,
            "evaluate": self.evaluate,
            "young": self.young,
        }[split]
