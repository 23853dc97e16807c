"""The typed definition of a feature: the `features` block.

A feature consists of a name, a transform and its settings. `column` defaults to the name. A bare
word is a transform with its default settings: `device_type: vocabulary`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from nightbid.config.base import BeforeValidator, Block, Field, model_validator

ONE_ID = (
    "quantile_buckets",
    "buckets",
    "vocabulary",
    "hash",
    "cross",
    "identity",
    "hour",
    "day_of_week",
)
"""Transforms that give one id per row."""


class FeatureBlock(Block):
    """Settings that all features have in common."""

    reads: ClassVar[Literal["number", "time", "id", "any"]] = "any"
    """What the columns of the feature hold. Values that are not a number (or a time) count as
    missing and are reported. Numeric ids are compared as categories, not by size."""
    column: str = ""
    """Source column; empty: the name of the feature."""
    training_only: bool = False
    """Whether a constant replaces the feature at serving, so that it does not bias the ranking,
    such as the position."""

    def sources(self, name: str) -> tuple[str, ...]:
        """Columns of the logs that the feature called `name` reads."""
        return (self.column or name,)

    def served(self, name: str) -> tuple[str, ...]:
        """Columns of a request that the feature called `name` reads, except the time."""
        return self.sources(name)

    def inputs(self, name: str) -> tuple[str, ...]:
        """Columns of the featurized rows that the feature called `name` makes."""
        return (name,)

    def shares(self) -> str:
        """Name of the feature whose vocabulary this one uses; empty: none, or its own."""
        return ""

    @property
    def one_id(self) -> bool:
        """Whether each row has exactly one id, as opposed to a number or a list."""
        return getattr(self, "transform", "") in ONE_ID


class Numeric(FeatureBlock):
    """A scaled number; missing, NaN and infinite values become the mean."""

    reads = "number"
    transform: Literal["numeric"]
    log1p: bool = False
    """Apply sign(x) · ln(1 + |x|) before scaling."""
    clip: tuple[float, float] | None = None
    """[low, high]; values outside are set to the nearer bound, before all other steps."""
    scale: Literal["none", "standard", "robust"] = "standard"
    """`standard`: (x - mean) / standard deviation. `robust`: (x - median) / interquartile range."""
    missing_indicator: bool = False
    """Whether to add an input that is 1 where the value is missing."""

    def inputs(self, name: str) -> tuple[str, ...]:
        """Columns of the featurized rows that the feature called `name` makes."""
        return (name, f"{name}__missing") if self.missing_indicator else (name,)


class QuantileBuckets(FeatureBlock):
    """Bucket of a number; the boundaries are quantiles of the training rows."""

    reads = "number"
    transform: Literal["quantile_buckets"]
    buckets: int = Field(default=16, ge=2, le=4096)
    """Number of buckets; each holds about the same number of training rows."""


class Buckets(FeatureBlock):
    """Bucket of a number; the boundaries are given."""

    reads = "number"
    transform: Literal["buckets"]
    boundaries: tuple[float, ...] = Field(min_length=1)
    """Boundaries in ascending order; n boundaries make n + 1 buckets."""

    @model_validator(mode="after")
    def _ascending(self) -> Buckets:
        if list(self.boundaries) != sorted(set(self.boundaries)):
            raise ValueError(f"boundaries ascend and differ, unlike {list(self.boundaries)}")
        return self


class Vocabulary(FeatureBlock):
    """Id of a value among the frequent values of the training rows."""

    reads = "id"
    transform: Literal["vocabulary"]
    top_k: int = Field(default=100_000, ge=1)
    """Maximum size of the vocabulary; the most frequent values are kept."""
    min_count: int = Field(default=2, ge=1)
    """Values seen in fewer training rows are out of vocabulary."""
    oov_buckets: int = Field(default=1, ge=1)
    """Number of hash buckets for values outside the vocabulary."""


class Hash(FeatureBlock):
    """Hash bucket of a value: needs no vocabulary, but values can collide."""

    reads = "id"
    transform: Literal["hash"]
    buckets: int = Field(default=4096, ge=1)
    """Number of hash buckets."""


class Cross(FeatureBlock):
    """Hash bucket of a combination of values."""

    reads = "id"
    transform: Literal["cross"]
    columns: tuple[str, ...] = Field(min_length=2)
    """Columns whose values are combined."""
    buckets: int = Field(default=4096, ge=1)
    """Number of hash buckets for the combinations."""

    def sources(self, name: str) -> tuple[str, ...]:
        """Columns of the logs that the feature called `name` reads."""
        return self.columns


class Bag(FeatureBlock):
    """Ids of a set of values (a list column or a separated string), with weights."""

    reads = "id"
    transform: Literal["bag"]
    length: int = Field(default=8, ge=1)
    """Number of values kept per row: the first ones."""
    weights: str = ""
    """List column with a weight per value, scaled to sum to 1 in each row; empty: equal weights."""
    separator: str = ","
    """Separator of the values if the column is a string instead of a list."""
    top_k: int = Field(default=100_000, ge=1)
    """Maximum size of the vocabulary; the most frequent values are kept."""
    min_count: int = Field(default=2, ge=1)
    """Values seen fewer times in the training rows are out of vocabulary."""
    oov_buckets: int = Field(default=1, ge=1)
    """Hash buckets for values outside the vocabulary."""

    def sources(self, name: str) -> tuple[str, ...]:
        """Columns of the logs that the feature called `name` reads."""
        return (self.column or name, *([self.weights] if self.weights else []))

    def inputs(self, name: str) -> tuple[str, ...]:
        """Columns of the featurized rows that the feature called `name` makes."""
        return (name, f"{name}__weight")


class Sequence(FeatureBlock):
    """The last values of a list column, oldest first."""

    reads = "id"
    transform: Literal["sequence"]
    length: int = Field(default=20, ge=1)
    """Number of most recent values kept per row."""
    separator: str = ","
    """Separator of the values if the column is a string instead of a list."""
    vocabulary: str | None = None
    """Feature whose vocabulary (and so embedding) the values share; null: a vocabulary of its
    own."""
    top_k: int = Field(default=100_000, ge=1)
    """Maximum size of the vocabulary; the most frequent values are kept."""
    min_count: int = Field(default=2, ge=1)
    """Values seen fewer times in the training rows are out of vocabulary."""
    oov_buckets: int = Field(default=1, ge=1)
    """Hash buckets for values outside the vocabulary."""

    def shares(self) -> str:
        """Name of the feature whose vocabulary this one uses; empty: its own."""
        return self.vocabulary or ""


class Recent(FeatureBlock):
    """The last values of a column in earlier rows with the same key, oldest first.

    They are learned from the rows of all days and stored, as rates are.
    """

    reads = "id"
    transform: Literal["recent"]
    column: str = Field(min_length=1)
    """Source column of the values, for example the item."""
    by: tuple[str, ...] = Field(min_length=1)
    """Columns of the key, for example the user."""
    vocabulary: str
    """Feature whose vocabulary (and so embedding) the values share."""
    length: int = Field(default=20, ge=1)
    """Number of most recent values kept per row."""
    rows: Literal["positive", "all"] = "positive"
    """Rows that count: `positive`, those with label 1 (what a user clicked), or `all`. If negatives
    are sampled, `all` has fewer rows of the training days than of later days."""
    before: Literal["time", "day"] = "time"
    """Which earlier rows count: `time`, those before the row's own time; `day`, those of the days
    before the row's day, which is what a model that is retrained nightly knows at serving."""
    delay_seconds: int = Field(default=600, ge=0)
    """Seconds after which a row counts for later rows, because its label is not known before."""

    def sources(self, name: str) -> tuple[str, ...]:
        """Columns of the logs that the feature called `name` reads."""
        return (self.column, *self.by)

    def served(self, name: str) -> tuple[str, ...]:
        """Columns of a request that the feature called `name` reads, except the time."""
        return self.by

    def shares(self) -> str:
        """Name of the feature whose vocabulary this one uses."""
        return self.vocabulary


class Identity(FeatureBlock):
    """An integer from 0 to size - 1, unchanged; anything else counts as missing."""

    reads = "number"
    transform: Literal["identity"]
    size: int = Field(ge=1)
    """Number of values: 0 to size - 1."""


class Hour(FeatureBlock):
    """Hour of the day of a time, UTC."""

    reads = "time"
    transform: Literal["hour"]


class DayOfWeek(FeatureBlock):
    """Day of the week of a time, UTC; Monday is first."""

    reads = "time"
    transform: Literal["day_of_week"]


class Age(FeatureBlock):
    """Days between two times, as ln(1 + days), scaled; negative ages count as 0."""

    reads = "time"
    transform: Literal["age"]
    since: str
    """Column with the earlier time; `column` has the later one."""

    def sources(self, name: str) -> tuple[str, ...]:
        """Columns of the logs that the feature called `name` reads."""
        return (self.column or name, self.since)


class TargetRate(FeatureBlock):
    """Label rate of a key on the days before the row's day.

    The value is ln(smoothed rate / overall rate of the same days); 0 for a key without rows.
    """

    transform: Literal["target_rate"]
    columns: tuple[str, ...] = ()
    """Columns of the key; empty: the column of the feature."""
    strength: float = Field(default=20.0, gt=0)
    """Smoothing: number of rows with the overall rate that are added to the rows of the key."""

    def sources(self, name: str) -> tuple[str, ...]:
        """Columns of the logs that the feature called `name` reads."""
        return self.columns or (self.column or name,)


class Count(FeatureBlock):
    """Rows of a key per day on the days before the row's day, as ln(1 + rows)."""

    transform: Literal["count"]
    columns: tuple[str, ...] = ()
    """Columns of the key; empty: the column of the feature."""

    def sources(self, name: str) -> tuple[str, ...]:
        """Columns of the logs that the feature called `name` reads."""
        return self.columns or (self.column or name,)


class TextNgrams(FeatureBlock):
    """Words and n-grams of a text, hashed into a bag."""

    transform: Literal["text_ngrams"]
    length: int = Field(default=16, ge=1)
    """Number of words and n-grams kept per row."""
    ngrams: int = Field(default=2, ge=1, le=4)
    """Maximum number of words in an n-gram."""
    buckets: int = Field(default=4096, ge=1)
    """Number of hash buckets."""

    def inputs(self, name: str) -> tuple[str, ...]:
        """Columns of the featurized rows that the feature called `name` makes."""
        return (name, f"{name}__weight")


class Function(FeatureBlock):
    """A registered Python function of one or more columns; its result is then transformed.

    See `nightbid.features.functions`.
    """

    transform: Literal["function"]
    function: str
    """Name of a function registered with `@feature_function`."""
    columns: tuple[str, ...] = Field(min_length=1)
    """Columns passed to the function, in order."""
    then: Literal["numeric", "hash"] = "numeric"
    """What happens to the result: `numeric` scales it, `hash` hashes it."""
    buckets: int = Field(default=4096, ge=1)
    """Number of hash buckets, with `then: hash`."""

    def sources(self, name: str) -> tuple[str, ...]:
        """Columns of the logs that the feature called `name` reads."""
        return self.columns


def _spelled_out(value: Any) -> Any:
    """Read `device_type: vocabulary` as `device_type: {transform: vocabulary}`."""
    if isinstance(value, str):
        return {"transform": value}
    if isinstance(value, dict) and "transform" not in value:
        return {"transform": "vocabulary", **value}
    return value


Feature = Annotated[
    Annotated[
        Numeric
        | QuantileBuckets
        | Buckets
        | Vocabulary
        | Hash
        | Cross
        | Bag
        | Sequence
        | Recent
        | Identity
        | Hour
        | DayOfWeek
        | Age
        | TargetRate
        | Count
        | TextNgrams
        | Function,
        Field(discriminator="transform"),
    ],
    BeforeValidator(_spelled_out),
]
