"""The limits of each gate: a block of them per gate, named after the statistics they bound.

The defaults are wide enough for any clean pipeline. A field's docstring is the meaning of its
check, in documents, on pages and in messages; a block's docstring says what its gate judges.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from nightbid.config.base import Block

Range = tuple[float | None, float | None]


class Limit(Block):
    """Values outside `warn` are reported; values outside `stop` end the night."""

    warn: Range | None = None
    """`[low, high]`; null is open."""
    stop: Range | None = None
    """Range outside of which the night stops, `[low, high]`; null is open."""

    @model_validator(mode="after")
    def _low_comes_first(self) -> Limit:
        for low, high in filter(None, (self.warn, self.stop)):
            if low is not None and high is not None and low > high:
                raise ValueError(f"a range is [low, high], but {low} > {high}")
        return self


def limit(*, warn: Range | None = None, stop: Range | None = None) -> Limit:
    """Write a default in one line."""
    return Limit(warn=warn, stop=stop)


class GateLimits(Block):
    """The limits of one gate, as `gates.<gate>` of the YAML."""


class RawGate(GateLimits):
    """Each day of the window against the other known days ("usual": their median).

    Ratios and excesses are what remains after four standard errors of chance, so that the same
    limits serve two thousand rows a day and two billion.
    """

    missing_days: Limit = limit(stop=(None, 0))
    """Days of the window without rows (freshness: the newest day among them)."""
    rows: Limit = limit(stop=(1, None))
    """Rows of a day."""
    rows_vs_usual: Limit = limit(warn=(0.7, 1.5), stop=(0.5, 2.0))
    """Rows over the median of the same weekday, or of all days while there are few."""
    missing_columns: Limit = limit(stop=(None, 0))
    """Columns that other days have and this day does not."""
    changed_types: Limit = limit(stop=(None, 0))
    """Columns of another type than on other days, where values of one are none of the other."""
    widened_types: Limit = limit(warn=(None, 0))
    """Columns whose type differs in width only: int64 for int32, double for int64."""
    missing_hours: Limit = limit(stop=(None, 0))
    """Hours of a day without any row."""
    hour_low: Limit = limit(warn=(0.7, None), stop=(0.4, None))
    """Thinnest hour over its usual share of the day."""
    hour_high: Limit = limit(warn=(None, 1.4), stop=(None, 1.7))
    """Fullest hour over its usual share of the day."""
    clock_shift: Limit = limit(warn=(None, 0.04), stop=(None, 0.09))
    """Excess of the distance between the day's hourly shares and the usual ones (0 to 1), beyond
    chance."""
    outside_day: Limit = limit(warn=(None, 0.001), stop=(None, 0.01))
    """Excess share of rows whose time is not in their day."""
    future_rows: Limit = limit(stop=(None, 0))
    """Rows whose time lies after the end of the night."""
    duplicates: Limit = limit(warn=(None, 0.002), stop=(None, 0.01))
    """Share of rows whose key occurs more than once."""
    quarantined: Limit = limit(warn=(None, 0.002), stop=(None, 0.02))
    """Share of rows that cannot be parsed."""
    quarantined_positives: Limit = limit(warn=(None, 0.01), stop=(None, 0.05))
    """Share of the rows with label 1 that could not be parsed, over that of all rows, beyond
    chance. A label that cannot be read counts as a possible 1: it may be a spelling of it."""
    events_matched: Limit = limit(warn=(0.98, None), stop=(0.9, None))
    """Share of a day's clicks (conversions) that found their impression, over the usual, beyond
    chance; only with `kind: events`."""
    events_repeated: Limit = limit(warn=(None, 0.01), stop=(None, 0.1))
    """Excess share of a day's clicks (conversions) that repeat another one; they are dropped."""
    events_early: Limit = limit(warn=(None, 0.001), stop=(None, 0.02))
    """Share of a day's clicks (conversions) that are earlier than their impression."""
    event_delay: Limit = limit(warn=(0.5, 2.0), stop=(0.1, 10.0))
    """Median (95th percentile) of the time from impressions to their clicks (conversions), over
    the usual, beyond chance."""
    null_excess: Limit = limit(warn=(None, 0.01), stop=(None, 0.03))
    """Share of nulls in a column, over that of the other days."""
    null_drop: Limit = limit(warn=(None, 0.1))
    """Share of nulls that other days have and this day does not."""
    nan_excess: Limit = limit(warn=(None, 0.005), stop=(None, 0.02))
    """Share of NaN in a column, over that of the other days."""
    blank_excess: Limit = limit(warn=(None, 0.005), stop=(None, 0.03))
    """Share of blank texts in a column, over that of the other days."""
    out_of_range: Limit = limit(warn=(None, 0.0005), stop=(None, 0.002))
    """Excess share of values far (10 times) beyond every other day's range, or negative first."""
    new_values: Limit = limit(warn=(None, 0.01), stop=(None, 0.05))
    """Excess share of rows whose value no other day has, in columns of few values."""
    lost_values: Limit = limit(warn=(None, 0.001), stop=(None, 0.01))
    """Usual share of the values that every other day has and this day does not."""
    distinct_vs_usual: Limit = limit(warn=(0.6, 1.7), stop=(0.3, 3.0))
    """Number of distinct values of a column, over the usual."""
    constant_columns: Limit = limit(warn=(None, 0))
    """Columns that have one value on this day and several on others, more than by chance."""
    contradictions: Limit = limit(warn=(None, 0.0005), stop=(None, 0.002))
    """Excess share of rows with a flag that needs another, or a time that must come later."""
    label_rate_vs_usual: Limit = limit(warn=(0.8, 1.25), stop=(0.6, 1.6))
    """Share of label 1, over the usual."""
    label_evening: Limit = limit(warn=(0.75, 1.4), stop=(0.5, 2.0))
    """Label rate of the last six hours over that of the others, against the usual, beyond
    chance."""
    label_hour_low: Limit = limit(warn=(0.3, None), stop=(0.1, None))
    """Lowest label rate of an hour, or of the last two to six, over the other hours', less
    chance."""
    psi: Limit = limit(warn=(None, 0.1), stop=(None, 0.25))
    """Population stability index against the other days, beyond chance."""
    linf: Limit = limit(warn=(None, 0.08), stop=(None, 0.15))
    """Largest change of one value's share (of the distribution function, for numbers)."""
    known_if_positive: Limit = limit(warn=(None, 0.3), stop=(None, 0.8))
    """How surely a row has label 1 because a column that a feature reads has a value: 0 as in any
    row, 1 always. Such a column was filled in after the event."""
    after_impression: Limit = limit(warn=(None, 0.05), stop=(None, 0.5))
    """Share of the times in a column that a feature reads which come after the impression; 0 where
    most rows share their time with others (the end of a campaign)."""
    auc_gain: Limit = limit(warn=(None, 0.05), stop=(None, 0.12))
    """How much better one column predicts the label than it usually does."""
    auc_loss: Limit = limit(warn=(None, 0.06), stop=(None, 0.15))
    """How much worse: a stale or shuffled join keeps every distribution, not this."""
    attribute_loss: Limit = limit(warn=(None, 0.05), stop=(None, 0.15))
    """Users (items) whose attribute is not what it was on other days: a stale join, swapped ids."""
    concentration: Limit = limit(warn=(None, 0.03), stop=(None, 0.1))
    """Largest excess of one user's share of the rows or of the positives: a bot."""


class FeaturesGate(GateLimits):
    """Model inputs of the night: against each other, earlier nights and the champion's."""

    rows: Limit = limit(stop=(1, None))
    """Rows of a split."""
    lost_rows: Limit = limit(stop=(0, 0))
    """Rows sampled less rows featurized."""
    missing_inputs: Limit = limit(stop=(None, 0))
    """Model inputs that a split does not have."""
    nulls: Limit = limit(stop=(None, 0))
    """Nulls in model inputs."""
    not_finite: Limit = limit(stop=(None, 0))
    """Infinite values and NaN in model inputs."""
    ids_out_of_range: Limit = limit(stop=(None, 0))
    """Ids beyond the size of their embedding."""
    unreadable: Limit = limit(warn=(None, 0.0001), stop=(None, 0.02))
    """Share of the values that a feature reads as numbers or times and that are none (`1.234,50`),
    or too large for float32. They count as missing; usual spellings of null are not counted."""
    constant: Limit = limit(warn=(None, 0))
    """1 for an input that is constant in the training rows."""
    newly_constant: Limit = limit(stop=(None, 0))
    """1 for an input that varies in the training rows and is constant in the newest."""
    oov: Limit = limit(warn=(None, 0.3), stop=(None, 0.9))
    """Share of the newest rows whose value the vocabulary does not have, of those that it has in
    the training rows, beyond chance."""
    oov_excess: Limit = limit(warn=(None, 0.05), stop=(None, 0.2))
    """Over the median of earlier nights."""
    missing_excess: Limit = limit(warn=(None, 0.05), stop=(None, 0.15))
    """Share of id 0 (missing) in the newest rows, over that of the training rows."""
    psi: Limit = limit(warn=(None, 0.25), stop=(None, 2.0))
    """Newest rows against the training rows."""
    psi_excess: Limit = limit(warn=(None, 0.1), stop=(None, 0.3))
    """The same, over the largest of earlier nights."""
    js: Limit = limit(warn=(None, 0.1), stop=(None, 0.5))
    """Jensen-Shannon divergence in bits, beyond chance."""
    linf: Limit = limit(warn=(None, 0.25), stop=(None, 0.9))
    """Largest change of one value's share, newest rows against the training rows."""
    psi_champion: Limit = limit(warn=(None, 0.25), stop=(None, 1.0))
    """Training rows against those of the champion; ids by what they stand for."""
    js_champion: Limit = limit(warn=(None, 0.1), stop=(None, 0.5))
    """Jensen-Shannon divergence of the training rows from the champion's, in bits."""
    linf_champion: Limit = limit(warn=(None, 0.25), stop=(None, 0.9))
    """Largest change of one value's share since the champion's training rows."""
    vocabulary_churn: Limit = limit(warn=(None, 0.5), stop=(None, 0.95))
    """Share of the training rows' known values that the champion has no id for."""
    single_auc: Limit = limit(warn=(None, 0.85), stop=(None, 0.93))
    """AUC in the newest rows of one input alone, its bins ranked on the training rows."""
    single_concordance: Limit = limit(warn=(None, 0.75), stop=(None, 0.85))
    """The same of value labels: (1 + Gini) / 2, how well one input alone ranks the amounts."""
    single_auc_gap: Limit = limit(warn=(None, 0.08), stop=(None, 0.2))
    """AUC in the training rows less that in the newest: the input has seen the labels."""
    label_rate_ratio: Limit = limit(warn=(0.7, 1.4), stop=(0.5, 2.0))
    """Share of label 1 in the newest rows, over that of the training rows."""
    position_as_input: Limit = limit(stop=(None, 0))
    """1 for a feature that reads `columns.position` and is not `training_only`. With a stop the
    YAML is refused; `{warn: [null, 0]}` allows it with a warning."""
    skew_mismatches: Limit = limit(stop=(None, 0))
    """Cells that the serving path computes differently, bit by bit."""
    skew_rows: Limit = limit(stop=(1, None))
    """Number of rows compared for skew."""


class ModelGate(GateLimits):
    """The candidate on the newest rows."""

    worse_than_reference: Limit = limit(warn=(None, 0))
    """1 if evaluation calls the candidate worse than the champion (or, first, the baseline): the
    night goes on, and `promote` keeps the champion."""
    entropy_loss: Limit = limit(stop=(None, 0.002))
    """Normalized entropy over that of the reference, beyond chance: that of the rows and that of
    the seed (a standard deviation of 0.001 until `gates noise` has measured it)."""
    deviance_loss: Limit = limit(stop=(None, 0.005))
    """With `label.kind: value`: normalized deviance over that of the reference, beyond chance."""
    gini_loss: Limit = limit(warn=(None, 0), stop=(None, 0.02))
    """With `label.kind: value`: normalized Gini coefficient of the reference minus that of the
    candidate, beyond chance."""
    auc_loss: Limit = limit(warn=(None, 0), stop=(None, 0.005))
    """AUC of the reference minus that of the candidate, beyond chance, also of a candidate whose
    normalized entropy is better: it is calibrated better and ranks worse."""
    verdict_mixed: Limit = limit(warn=(None, 0))
    """1 if the candidate is better or neutral by normalized entropy (or deviance) and ranks
    significantly worse: `promote` keeps the champion."""
    seed_noise: Limit = limit(warn=(None, 0.002))
    """Standard deviation of the normalized entropy between seeds, as `gates.seed_noise` has it."""
    seed_noise_unknown: Limit = limit()
    """1 if it was not measured for this model; `{stop: [null, 0]}` requires it."""
    new_day_loss: Limit = limit(warn=(None, 0.005))
    """With `train.mode: incremental`: normalized entropy of the new training day before it was
    learned, less the usual one since the last night that learned all days, beyond chance."""
    metrics_not_finite: Limit = limit(stop=(None, 0))
    """Metrics that are no numbers."""
    positives: Limit = limit(warn=(200, None), stop=(10, None))
    """Rows with label 1, or a value above 0, among those that judge."""
    auc: Limit = limit(warn=(0.55, None), stop=(0.51, None))
    """Area under the ROC curve on the newest rows; below 0.55 only what the rows can tell from
    0.55."""
    gini: Limit = limit(warn=(0.05, None), stop=(0.01, None))
    """With `label.kind: value`: normalized Gini coefficient on the newest rows; 1 ranks the values
    perfectly, 0 is chance."""
    gini_jump: Limit = limit(warn=(None, 0.1), stop=(None, 0.3))
    """With `label.kind: value`: Gini coefficient minus the champion's, beyond chance; a jump
    usually means a leak."""
    deviance_vs_constant: Limit = limit(warn=(None, -0.001), stop=(None, 0))
    """With `label.kind: value`: difference in normalized deviance; below 0 is better than
    predicting the mean value of the training rows."""
    deviance_vs_baseline: Limit = limit(warn=(None, 0), stop=(None, 0.02))
    """With `label.kind: value`: normalized deviance less that of the baseline."""
    auc_jump: Limit = limit(warn=(None, 0.05), stop=(None, 0.15))
    """AUC minus the champion's, beyond chance; a jump usually means a leak."""
    above_oracle: Limit = limit(warn=(None, 0.005), stop=(None, 0.02))
    """AUC minus that of the true probabilities, beyond chance, with simulated data."""
    normalized_entropy_vs_constant: Limit = limit(warn=(None, -0.001), stop=(None, 0))
    """Difference; below 0 is better than predicting the mean. Above 0, what is beyond chance."""
    normalized_entropy_vs_baseline: Limit = limit(warn=(None, 0), stop=(None, 0.02))
    """Normalized entropy less that of the baseline; above 0, what is beyond chance."""
    calibration: Limit = limit(warn=(0.9, 1.1), stop=(0.75, 1.33))
    """Mean prediction over mean label (or value), beyond chance."""
    ece: Limit = limit(warn=(None, 0.03), stop=(None, 0.1))
    """Expected calibration error on the newest rows, beyond what redrawn labels would give."""
    largest_tie: Limit = limit(warn=(None, 0.5), stop=(None, 0.95))
    """Share of the rows in the largest of twenty groups of like predictions: 1 for a constant."""
    predictions_moved: Limit = limit(warn=(None, 0.5), stop=(None, 2.0))
    """Wasserstein distance of the predictions from the reference's on the same rows, in means."""
    field_calibration: Limit = limit(warn=(None, 0.15), stop=(None, 0.5))
    """Predictions missing or too many within values of a column of `evaluate.slices`, as a share
    of the positives, beyond chance."""
    slice_calibration: Limit = limit(warn=(0.75, 1.33), stop=(0.5, 2.0))
    """Mean prediction over mean label in a slice, beyond chance."""
    slice_deviance: Limit = limit(warn=(None, 0.01), stop=(None, 0.05))
    """With `label.kind: value`: the candidate's loss in normalized deviance over the reference's in
    a slice, beyond chance."""
    slice_normalized_entropy: Limit = limit(warn=(None, 0.01), stop=(None, 0.05))
    """The candidate's loss in normalized entropy over the reference's in a slice, beyond chance."""
    slice_positives: int = Field(default=50, ge=1)
    """Slices with fewer positives (or values above 0) are not checked."""


class ValueGate(GateLimits):
    """What the candidate's bids would have earned (`replay`), and its choices brought (`policy`).

    All of these warn by default: a stop is yours to set.
    """

    surplus_loss: Limit = limit(warn=(None, 0))
    """Share of the reference's surplus that the candidate loses, beyond chance; expected surplus
    where the true probabilities are known."""
    surplus: Limit = limit(warn=(0, None))
    """Value less spend, in money, of the candidate."""
    unusable_rows: Limit = limit(warn=(None, 0.001))
    """Share of evaluate rows without a usable price, left out of the replay."""
    price_ratio: Limit = limit(warn=(0.5, 2.0))
    """Median price over that of the days before."""
    policy_loss: Limit = limit(warn=(None, 0))
    """With `policy`: share of the logged choices' label rate that the candidate's would lose,
    beyond chance, by DR."""


class ServingGate(GateLimits):
    """The exported bundle and its load test."""

    p99_ms: Limit = limit(warn=(None, 20), stop=(None, 50))
    """99th percentile of a request's latency in the load test, in milliseconds."""
    p50_ms: Limit = limit(warn=(None, 10))
    """Median of a request's latency in the load test, in milliseconds."""
    requests_per_second_per_core: Limit = limit(warn=(50, None), stop=(10, None))
    """Requests that one core answered in a second."""
    rate_held: Limit = limit(warn=(1.0, None), stop=(0.25, None))
    """With `serve`: highest rate at which the scorer holds `serve.p99_ms` over its socket, as a
    share of `serve.requests_per_second`."""
    parity: Limit = limit(warn=(None, 1e-5), stop=(None, 1e-4))
    """Largest difference between the exported graph and the reference model."""
    skew_mismatches: Limit = limit(stop=(None, 0))
    """Cells that the serving path computes differently, bit by bit."""
    skew_rows: Limit = limit(stop=(1, None))
    """Number of rows compared for skew."""
    bundle_mb: Limit = limit(warn=(None, 2000))
    """Size of the exported bundle, in megabytes."""
    refit_fallback: Limit = limit(warn=(None, 0))
    """1 if the judged model serves, since `train.refit` is unset and the refitted one could not be
    compared with it or is outside the stop of a check below. Such a warning never becomes a
    stop."""
    refit_loss: Limit = limit(warn=(None, 0), stop=(None, 0.01))
    """With `train.refit`: how much higher the refitted model's log loss is on held-back rows than
    that of the judged one, as a share of it, beyond chance."""
    refit_calibration: Limit = limit(warn=(0.9, 1.1), stop=(0.75, 1.33))
    """Mean prediction of the refitted model over the mean label on held-back rows, beyond
    chance."""
    refit_mean: Limit = limit(warn=(0.9, 1.1), stop=(0.75, 1.33))
    """Mean prediction of the refitted model over that of the judged one on held-back rows."""
    refit_agreement: Limit = limit(warn=(0.9, None), stop=(0.7, None))
    """Correlation of the log odds of both models on held-back rows."""


class CostGate(GateLimits):
    """Shares of the limits in the `budget` block."""

    run_share: Limit = limit(warn=(None, 0.8), stop=(None, 1))
    """What the run cost, over `budget.run_usd`."""
    stage_share: Limit = limit(warn=(None, 0.8), stop=(None, 1))
    """What a stage cost, over its limit in `budget.stage_usd`."""
