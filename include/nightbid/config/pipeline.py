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
from nightbid.config.features import Feature
from nightbid.config.gates import Gates
from nightbid.config.models import Baseline, Model, Train
from nightbid.config.policy import Policy
from nightbid.config.replay import Replay
from nightbid.config.serve import Serve
from nightbid.config.sources import JOINED, SimulatorSource, Source, defaults_of
from nightbid.config.window import LONGEST_DAYS, Window
from nightbid.errors import ConfigError
from nightbid.partitions import STEPS, Hour, Partition, Unit, containing, days_as_partitions, end_of

FeatureName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,79}$")]
"""Also the name of files and of model inputs."""
Split = Literal["history", "train", "validate", "evaluate", "young"]
SPLITS: tuple[Split, ...] = ("train", "validate", "evaluate")
"""What models learn from and are judged on."""
READ_SPLITS: tuple[Split, ...] = ("history", *SPLITS, "young")
"""What features learn from: `history` feeds rates, counts and recent items only, and so do `young`
days, whose labels are not final."""
CRON_FIELD = re.compile(r"[\w*,/#-]+")
CRON_MOST = (59, 23, 31, 12, 7)
"""Largest minute, hour, day, month and weekday."""


class Label(Block):
    """What the model predicts, and when it is known."""

    column: str = "click"
    """A 0/1 (or boolean) column; with `positive: known`, any column; with `kind: value`, numbers
    from 0 on."""
    kind: Literal["binary", "value"] = "binary"
    """`binary`: models predict the probability of label 1. `value`: models predict the expected
    value of the column, such as seconds watched or revenue; most rows may be 0."""
    distribution: Literal["zero_inflated_lognormal", "tweedie"] = "tweedie"
    """With `kind: value`, the loss: `tweedie`, the deviance of power 1.5, which needs no more than
    the mean to be right; `zero_inflated_lognormal` (ZILN), the chance of a value above 0 and a
    log-normal of it, for long tails. Boosted trees have `tweedie` only."""
    positive: Literal["one", "known"] = "one"
    """Rows with label 1: `one`, where the column is 1; `known`, where it has a value, such as the
    time of a conversion or the id of an order. Null, false, an empty text and numbers up to 0 are
    none."""
    texts: dict[str, Literal[0, 1]] = Field(default_factory=dict)
    """Texts of the label, and of `given`, beside 0, 1, true and false, in any case:
    `{"yes": 1, "no": 0}`, in quotation marks, since a bare yes is true in YAML."""
    given: str | None = None
    """Only rows where this 0/1 column is 1 (post-click conversion: `given: click`)."""
    entire_space: bool = False
    """With `given`: keep every row; the label is 1 where both are. What is predicted is then the
    probability of both (post-view conversion), free of the bias of learning from clicks only."""
    event_time: str | None = None
    """When the labeled event happened, for delayed labels; null if it did not."""
    attribution_days: int = Field(default=0, ge=0, le=LONGEST_DAYS)
    """A label is final this many days after the impression; younger days are not used, but for
    `young_days`."""
    young_days: Literal["left_out", "elapsed_time"] = "left_out"
    """What becomes of days whose labels are not final. `elapsed_time`: with `train.refit`, what
    serves learns them as well, by the elapsed-time likelihood: a row of age e is seen as positive
    with probability p · G(e), where G is the share of positives that are known by that age."""
    delay_by: str | None = None
    """With `young_days: elapsed_time`: a column of the logs whose values differ in how long their
    positives take, such as the category of the ad; G has a mean of its own for each."""

    @field_validator("texts", mode="before")
    @classmethod
    def _texts_are_quoted(cls, texts: object) -> object:
        if isinstance(texts, dict) and any(isinstance(each, bool) for each in texts):
            raise ValueError(
                'write the texts in quotation marks, {"yes": 1, "no": 0}: a bare yes or no is true'
                " or false in YAML"
            )
        return texts


class Sampling(Block):
    """Which rows of the training days are kept."""

    negative_rate: float = Field(default=1.0, gt=0, le=1)
    """Share of negatives to keep; each kept one gets weight 1/rate."""
    frozen: str = ""
    """Name of a frozen data set (`nightbid data freeze`) to use instead of the logs."""


class Runner(Block):
    """What samples and featurizes. A bare word is its kind: `runner: dask`."""

    kind: Literal["direct", "dask"] = "direct"
    """Threads of this process, or Dask's processes here or elsewhere. That Google Cloud Dataflow
    does it instead is up to the installation (`cloud.dataflow` in its settings)."""
    workers: int = Field(default=2, ge=1)
    """Number of threads, processes or machines."""
    scheduler: str = ""
    """`tcp://host:port` of a running Dask scheduler whose workers reach the workspace and have
    this package; empty: `workers` processes are started for the stage."""

    @model_validator(mode="before")
    @classmethod
    def _spelled_out(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value


class PipelineSpec(Block):
    """Settings of one nightly pipeline."""

    pipeline: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")
    """Name of the pipeline, equal to the file name; DAG, runs and champion carry it."""
    description: str = ""
    """One line, shown in Airflow."""
    owner: str = "ads-ml"
    """Owning team, shown in Airflow."""
    access: dict[str, Literal["read", "edit"]] = Field(default_factory=dict)
    """Role of Airflow's login → what it may do with this pipeline's DAG and pages, beside roles
    that may see every DAG. Needs the FAB login."""
    schedule: str | None = None
    """Cron expression, UTC, at most once per partition of the logs: once a day, an hour with
    `source.partition: hour`, a week with `week`. Of days, a slower one such as `@weekly` trains on
    the window that ends on the day before it. Null: manual only."""
    start_date: dt.date = dt.date(2026, 1, 8)
    """First night of the schedule."""
    source: Source = SimulatorSource()
    """Where the logs come from."""
    arrival: Arrival | None = None
    """When a day of logs is complete, and how long a night waits for it; default: no waiting."""
    columns: Columns = Columns()
    label: Label = Label()
    sampling: Sampling = Sampling()
    window: Window = Window()
    features: dict[FeatureName, Feature] = Field(min_length=1)
    """Name → feature. A bare word is a transform: `device_type: vocabulary`; a block without
    `transform` is a vocabulary."""
    model: Model = Model()
    baseline: Baseline = Baseline(architecture="logistic_regression")
    """What to beat on the first night, and for comparison later: a model, or (`column`) the score
    of another platform in the logs."""
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    replay: Replay | None = None
    """Bid the predictions on logged market prices and say what they earn; default: not done."""
    policy: Policy | None = None
    """Say what choosing items by the predictions would have brought, from logs with propensities
    (`columns.propensity`); default: not done."""
    serve: Serve | None = None
    """Latency and rate that the scorer has to hold, measured over its socket; default: not done."""
    gates: Gates = Gates()
    budget: Budget = Budget()
    runner: Runner = Runner()
    approval: bool = False
    """Require a person to approve the promotion in Airflow."""
    approval_hours: float = Field(default=20, gt=0, le=168)
    """Hours to wait for the approval; without an answer the champion stays."""
    seed: int = 0
    """Seed of all random draws: the same seed gives the same night."""

    @field_validator("schedule")
    @classmethod
    def _is_a_schedule(cls, schedule: str | None) -> str | None:
        fields = (schedule or "").split()
        is_cron = len(fields) == len(CRON_MOST) and all(
            CRON_FIELD.fullmatch(each) and all(int(n) <= most for n in re.findall(r"\d+", each))
            for each, most in zip(fields, CRON_MOST, strict=True)
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
            # Neither loss makes the mean prediction the mean value, and that is what is used.
            usual["train"] = {"calibration": "rate"}
        for block, defaults in usual.items():
            own = value.get(block, {})
            if isinstance(own, dict):
                brought[block] = {**defaults, **own}
        source, label = value.get("source"), brought.get("label")
        plain = source if isinstance(source, dict) and source.get("kind") == "events" else None
        if plain and label and (when := JOINED.get(str(label["column"]))):
            # A joined label is known once the window of its events is over.
            final = {"event_time": when, "attribution_days": plain.get("attribution_days", 1)}
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
        """What the logs are partitioned by."""
        found: Unit = getattr(self.source, "partition", "day")
        return found

    def partition_at(self, moment: dt.date) -> dt.date:
        """The partition in which a day or an hour lies; of hours, the last one of a plain day.

        Raises:
            ConfigError: an hour, where logs are partitioned by days or weeks.
        """
        if isinstance(moment, Hour) and self.partition != "hour":
            raise ConfigError(
                f"{moment} names an hour, and the logs of {self.pipeline} are partitioned by"
                f" {self.partition}s",
                where="--date",
                hint="write YYYY-MM-DD, or set source.partition: hour",
            )
        begins = getattr(self.source, "week_begins", "monday")
        return containing(moment, self.partition, begins)

    def first_partition(self, day: dt.date) -> dt.date:
        """The first partition that begins on a day or after it."""
        start = dt.datetime(day.year, day.month, day.day)
        first = self.partition_at(start)
        return first + STEPS["week"] if self.partition == "week" and first < day else first

    def newest_complete(self, moment: dt.datetime) -> dt.date:
        """The newest partition that is over at some moment; days and weeks are those of UTC."""
        zone = getattr(self.source, "time_zone", "UTC") if self.partition == "hour" else "UTC"
        return self.partition_at(moment.astimezone(ZoneInfo(zone))) - STEPS[self.partition]

    def arrival_deadline(self, night: dt.date) -> dt.datetime | None:
        """When a night stops waiting for its newest partition; None if it does not wait."""
        if self.arrival is None:
            return None
        clock = dt.time.fromisoformat(self.arrival.deadline)
        after = dt.timedelta(hours=clock.hour, minutes=clock.minute)
        return end_of(night, self.partition) + after

    def position_inputs(self) -> list[str]:
        """Features that read the position and are served."""
        position = self.columns.position
        return [
            name
            for name, feature in self.features.items()
            if position and not feature.training_only and position in feature.sources(name)
        ]


def named_columns(spec: PipelineSpec) -> frozenset[str]:
    """Columns of the logs that roles, label, features and slices name."""
    places = [(place, name) for place, name in names_of(spec) if place != "a feature" and name]
    return frozenset(name for _, name in places)


class Night(Block):
    """The days of one run. `date` is the newest complete day of logs."""

    date: Partition
    train: tuple[Partition, ...]
    validate_: tuple[Partition, ...] = Field(alias="validate")
    evaluate: tuple[Partition, ...]
    history: tuple[Partition, ...] = ()
    """Days before `train` that only feed what features know of the past."""
    young: tuple[Partition, ...] = ()
    """Days after `evaluate` whose labels are not final; only what serves learns them."""

    @classmethod
    def of(cls, spec: PipelineSpec, newest: dt.date) -> Night:
        """Split the window that ends on `newest`, or on the newest day whose labels are final.

        Args:
            spec: The pipeline.
            newest: A partition, or a day in it.

        Raises:
            ConfigError: it reaches beyond the calendar.
        """
        try:
            return cls._split(spec, spec.partition_at(newest))
        except OverflowError:
            raise ConfigError(
                f"the window of {newest} reaches beyond the calendar",
                where="--date",
                hint="take a date between year 100 and 9900",
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
        """The days of one split, oldest first."""
        return {
            "history": self.history,
            "train": self.train,
            "validate": self.validate_,
            "evaluate": self.evaluate,
            "young": self.young,
        }[split]
