"""The typed definition of a feature: the `features` block.

A feature is a few lines: a name, a transform and its settings. `column` defaults to the name.
A bare word is a transform with its defaults: `device_type: vocabulary`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, Literal

from nightbid.config.base import BeforeValidator, Block, Field, model_validator

SCALES = {
    "none": "the number as it is",
    "standard": "(x - mean) / standard deviation",
    "robust": "(x - median) / interquartile range",
}


class FeatureBlock(Block):
    """Settings that all features share."""

    column: str = ""
    """Source column; the feature's name if empty."""
    training_only: bool = False
    """Replaced with a constant at serving, so that it does not bias the ranking (position)."""

    def sources(self, name: str) -> tuple[str, ...]:
        """Columns of the logs that the feature called `name` reads."""
        return (self.column or name,)

    def served(self, name: str) -> tuple[str, ...]:
        """Columns of a request that it reads, besides the time."""
        return self.sources(name)

    def inputs(self, name: str) -> tuple[str, ...]:
        """Columns of the featurized rows that the feature called `name` makes."""
        return (name,)

    @abstractmethod
    def in_words(self) -> str:
        """What it makes of its columns, with its settings; the feature's documentation."""


class Numeric(FeatureBlock):
    """A number, scaled; missing, NaN and infinite values become the mean."""

    transform: Literal["numeric"]
    log1p: bool = False
    """Apply sign(x) · ln(1 + |x|) before scaling."""
    clip: tuple[float, float] | None = None
    """[low, high]; values outside are set to the nearer bound, before anything else."""
    scale: Literal["none", "standard", "robust"] = "standard"
    """`standard`: (x - mean) / standard deviation. `robust`: (x - median) / interquartile range."""
    missing_indicator: bool = False
    """Add an input that is 1 where the value is missing."""

    def inputs(self, name: str) -> tuple[str, ...]:
        """Columns of the featurized rows that the feature called `name` makes."""
        return (name, f"{name}__missing") if self.missing_indicator else (name,)

    def in_words(self) -> str:
        """What it makes of its columns."""
        steps = [f"clipped to {_span(self.clip)}"] if self.clip else []
        steps += ["sign(x) · ln(1 + |x|)"] if self.log1p else []
        steps += [SCALES[self.scale]]
        steps += ["a second input is 1 where it is missing"] if self.missing_indicator else []
        return ", ".join(steps)


class QuantileBuckets(FeatureBlock):
    """Bucket of a number, between quantiles of the training rows."""

    transform: Literal["quantile_buckets"]
    buckets: int = Field(default=16, ge=2, le=4096)
    """Number of buckets; each holds about the same number of training rows."""

    def in_words(self) -> str:
        """What it makes of its columns."""
        return f"one of {self.buckets:,} buckets that hold equally many training rows"


class Buckets(FeatureBlock):
    """Bucket of a number, between given boundaries."""

    transform: Literal["buckets"]
    boundaries: tuple[float, ...] = Field(min_length=1)
    """Boundaries, ascending; n boundaries make n + 1 buckets."""

    @model_validator(mode="after")
    def _ascending(self) -> Buckets:
        if list(self.boundaries) != sorted(set(self.boundaries)):
            raise ValueError(f"boundaries ascend and differ, unlike {list(self.boundaries)}")
        return self

    def in_words(self) -> str:
        """What it makes of its columns."""
        edges = ", ".join(f"{each:,g}" for each in self.boundaries)
        return f"the bucket between {edges}"


class Vocabulary(FeatureBlock):
    """Id of a value among the frequent values of the training rows."""

    transform: Literal["vocabulary"]
    top_k: int = Field(default=100_000, ge=1)
    """Maximum size of the vocabulary; the most frequent values are kept."""
    min_count: int = Field(default=2, ge=1)
    """Values seen in fewer training rows are out of vocabulary."""
    oov_buckets: int = Field(default=1, ge=1)
    """Values outside the vocabulary are hashed into these."""

    def in_words(self) -> str:
        """What it makes of its columns."""
        return f"one of {_frequent(self)}"


class Hash(FeatureBlock):
    """Hash bucket of a value: no vocabulary, with collisions."""

    transform: Literal["hash"]
    buckets: int = Field(default=4096, ge=1)
    """Number of hash buckets."""

    def in_words(self) -> str:
        """What it makes of its columns."""
        return f"hashed into {self.buckets:,} buckets"


class Cross(FeatureBlock):
    """Hash bucket of a combination of values."""

    transform: Literal["cross"]
    columns: tuple[str, ...] = Field(min_length=2)
    """Columns whose values are combined."""
    buckets: int = Field(default=4096, ge=1)
    """Number of hash buckets for the combinations."""

    def sources(self, name: str) -> tuple[str, ...]:
        """Columns of the logs that the feature called `name` reads."""
        return self.columns

    def in_words(self) -> str:
        """What it makes of its columns."""
        return f"hashed together into {self.buckets:,} buckets"


class Bag(FeatureBlock):
    """Ids of a set of values (a list column or a separated string), with weights."""

    transform: Literal["bag"]
    length: int = Field(default=8, ge=1)
    """Number of values kept per row, in their order."""
    weights: str = ""
    """List column with a weight per value, scaled to sum 1 in each row; empty: equal weights."""
    separator: str = ","
    """Separates the values if the column is a string instead of a list."""
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

    def in_words(self) -> str:
        """What it makes of its columns."""
        weights = f"weighted by {self.weights}" if self.weights else "of equal weight"
        return f"first {self.length:,} values{_parted(self)}, {weights}, of {_frequent(self)}"


class Sequence(FeatureBlock):
    """The last values of a list column, oldest first."""

    transform: Literal["sequence"]
    length: int = Field(default=20, ge=1)
    """Number of most recent values kept per row."""
    separator: str = ","
    """Separates the values if the column is a string instead of a list."""
    vocabulary: str | None = None
    """Feature whose vocabulary (hence embedding) the items share; null: one of its own."""
    top_k: int = Field(default=100_000, ge=1)
    """Maximum size of the vocabulary; the most frequent values are kept."""
    min_count: int = Field(default=2, ge=1)
    """Values seen fewer times in the training rows are out of vocabulary."""
    oov_buckets: int = Field(default=1, ge=1)
    """Hash buckets for values outside the vocabulary."""

    def in_words(self) -> str:
        """What it makes of its columns."""
        known = f"the vocabulary of {self.vocabulary}" if self.vocabulary else _frequent(self)
        return f"last {self.length:,} values{_parted(self)}, oldest first, of {known}"


class Recent(FeatureBlock):
    """The last values that a key's earlier rows had, up to the row's time, oldest first.

    What a key did is learned from the rows of every day and kept, as rates are.
    """

    transform: Literal["recent"]
    column: str = Field(min_length=1)
    """Source column of the values: the item."""
    by: tuple[str, ...] = Field(min_length=1)
    """Columns of the key, for example the user."""
    vocabulary: str
    """Feature whose vocabulary (hence embedding) the values share."""
    length: int = Field(default=20, ge=1)
    """Number of most recent values kept per row."""
    rows: Literal["positive", "all"] = "positive"
    """Rows that count: those whose label was 1 (what a user clicked), or all. Where negatives are
    sampled away, `all` sees the training days more thinly than the later ones."""
    before: Literal["time", "day"] = "time"
    """Up to the row's own `time`, or only from the days before its `day`, which is what a model
    that is retrained nightly knows when it serves."""
    delay_seconds: int = Field(default=600, ge=0)
    """Seconds until a row counts for later rows: until then its label was not known."""

    def sources(self, name: str) -> tuple[str, ...]:
        """Columns of the logs that the feature called `name` reads."""
        return (self.column, *self.by)

    def served(self, name: str) -> tuple[str, ...]:
        """Columns of a request that it reads, besides the time."""
        return self.by

    def in_words(self) -> str:
        """What it makes of its columns."""
        rows = "whose label was 1" if self.rows == "positive" else "whatever their label"
        return (
            f"last {self.length:,} {self.column} of earlier rows of the same {', '.join(self.by)}"
            f" {rows}, oldest first, of the vocabulary of {self.vocabulary}"
        )


class Identity(FeatureBlock):
    """An integer from 0 to size - 1, unchanged; anything else counts as missing."""

    transform: Literal["identity"]
    size: int = Field(ge=1)
    """Number of values: 0 to size - 1."""

    def in_words(self) -> str:
        """What it makes of its columns."""
        return f"whole number from 0 to {self.size - 1:,}, as it is"


class Hour(FeatureBlock):
    """Hour of the day of a time, UTC."""

    transform: Literal["hour"]

    def in_words(self) -> str:
        """What it makes of its columns."""
        return "hour of the day, UTC"


class DayOfWeek(FeatureBlock):
    """Day of the week of a time, UTC; Monday is first."""

    transform: Literal["day_of_week"]

    def in_words(self) -> str:
        """What it makes of its columns."""
        return "day of the week, UTC"


class Age(FeatureBlock):
    """Days from one time to another, as ln(1 + days), scaled; negative ages count as 0."""

    transform: Literal["age"]
    since: str
    """Column with the earlier time; `column` is the later one."""

    def sources(self, name: str) -> tuple[str, ...]:
        """Columns of the logs that the feature called `name` reads."""
        return (self.column or name, self.since)

    def in_words(self) -> str:
        """What it makes of its columns."""
        return f"days since {self.since}: ln(1 + days), {SCALES['standard']}"


class TargetRate(FeatureBlock):
    """Rate of positive labels of a key, on days before the row's day.

    ln of the smoothed rate over the overall rate of the same days: 0 where nothing is known.
    """

    transform: Literal["target_rate"]
    columns: tuple[str, ...] = ()
    """Columns of the key; the feature's column if empty."""
    strength: float = Field(default=20.0, gt=0)
    """Smoothing: number of rows at the overall rate that are added to the key's own rows."""

    def sources(self, name: str) -> tuple[str, ...]:
        """Columns of the logs that the feature called `name` reads."""
        return self.columns or (self.column or name,)

    def in_words(self) -> str:
        """What it makes of its columns."""
        return (
            "ln of the key's label rate over the overall one, smoothed by"
            f" {self.strength:,g} rows of the overall one"
        )


class Count(FeatureBlock):
    """Rows of a key per day, on days before the row's day: ln(1 + rows)."""

    transform: Literal["count"]
    columns: tuple[str, ...] = ()
    """Columns of the key; the feature's column if empty."""

    def sources(self, name: str) -> tuple[str, ...]:
        """Columns of the logs that the feature called `name` reads."""
        return self.columns or (self.column or name,)

    def in_words(self) -> str:
        """What it makes of its columns."""
        return "ln(1 + rows of the key per day)"


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

    def in_words(self) -> str:
        """What it makes of its columns."""
        runs = f" and runs of up to {self.ngrams}" if self.ngrams > 1 else ""
        return f"first {self.length:,} words{runs}, hashed into {self.buckets:,} buckets"


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
    """What happens to the result: scaled as a number, or hashed."""
    buckets: int = Field(default=4096, ge=1)
    """Number of hash buckets, with `then: hash`."""

    def sources(self, name: str) -> tuple[str, ...]:
        """Columns of the logs that the feature called `name` reads."""
        return self.columns

    def in_words(self) -> str:
        """What it makes of its columns."""
        made = f"{self.function}({', '.join(self.columns)})"
        if self.then == "hash":
            return f"{made}, hashed into {self.buckets:,} buckets"
        return f"{made}: {SCALES['standard']}"


def _frequent(feature: Vocabulary | Bag | Sequence) -> str:
    seen = "once" if feature.min_count == 1 else f"{feature.min_count:,} times"
    others = "1 bucket" if feature.oov_buckets == 1 else f"{feature.oov_buckets:,} buckets"
    return (
        f"the {feature.top_k:,} most frequent values seen at least {seen},"
        f" others hashed into {others}"
    )


def _parted(feature: Bag | Sequence) -> str:
    return "" if feature.separator == "," else f" parted by {feature.separator!r}"


def _span(bounds: tuple[float, float]) -> str:
    return f"[{bounds[0]:,g}, {bounds[1]:,g}]"


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
