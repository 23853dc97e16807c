"""The limits of each gate: one block per gate, each field named after the statistic it bounds.

The defaults are wide enough for any clean pipeline. The docstring of a field describes its check in
the documentation, on report pages and in messages; the docstring of a block completes "Judges:".
"""

from __future__ import annotations

from pydantic import Field, model_validator

from nightbid.config.base import Block

Range = tuple[float | None, float | None]


class Limit(Block):
    """Values outside `warn` are reported; values outside `stop` stop the night."""

    warn: Range | None = None
    """Range outside of which the gate warns, `[low, high]`; null is open."""
    stop: Range | None = None
    """Range outside of which the night stops, `[low, high]`; null is open."""

    @model_validator(mode="after")
    def _low_comes_first(self) -> Limit:
        for low, high in filter(None, (self.warn, self.stop)):
            if low is not None and high is not None and low > high:
                raise ValueError(f"a range is [low, high], but {low} > {high}")
        return self


def limit(*, warn: Range | None = None, stop: Range | None = None) -> Limit:
    """Build a limit; keeps the defaults below to one line each."""
    return Limit(warn=warn, stop=stop)


class GateLimits(Block):
    """The limits of one gate, as `gates.<gate>` of the YAML."""


class RawGate(GateLimits):
    """Each day of the window against the other known days ("usual": their median).

    Ratios and excesses are reduced by four standard errors of sampling noise ("beyond chance"), so
    that the same limits suit two thousand rows a day and two billion.
    """

    missing_days: Limit = limit(stop=(None, 0))
    """Number of days of the window without rows, including the newest day (freshness)."""
    rows: Limit = limit(stop=(1, None))
    """Number of rows of a day."""
    rows_vs_usual: Limit = limit(warn=(0.7, 1.5), stop=(0.5, 2.0))
    """Rows of a day over the median of the same weekday, or of all days until enough are known."""
    missing_columns: Limit = limit(stop=(None, 0))
    """Number of columns that other days have and this day does not."""
    changed_types: Limit = limit(stop=(None, 0))
    """Number of columns whose type differs from other days' and is incompatible with it."""
    widened_types: Limit = limit(warn=(None, 0))
    """Number of columns whose type differs in width only: int64 for int32, double for int64."""
    missing_hours: Limit = limit(stop=(None, 0))
    """Number of hours of a day without rows."""
    hour_low: Limit = limit(warn=(0.7, None), stop=(0.4, None))
    """Lowest ratio of an hour's rows to its usual share of the day, beyond chance."""
    hour_high: Limit = limit(warn=(None, 1.4), stop=(None, 1.7))
    """Highest ratio of an hour's rows to its usual share of the day, beyond chance."""
    clock_shift: Limit = limit(warn=(None, 0.04), stop=(None, 0.09))
    """Share of the rows (0 to 1) that are in another hour than usual, beyond that of other days and
    chance."""
    outside_day: Limit = limit(warn=(None, 0.001), stop=(None, 0.01))
    """Excess share of rows whose time is not within their day."""
    future_rows: Limit = limit(stop=(None, 0))
    """Number of rows whose time is after the end of the day, in any time zone."""
    duplicates: Limit = limit(warn=(None, 0.002), stop=(None, 0.01))
    """Share of rows whose key occurs more than once."""
    repeated_positives: Limit = limit(warn=(None, 0.01), stop=(None, 0.05))
    """Share of rows with label 1 that are dropped because an earlier row of their key has label 0;
    only if keys repeat."""
    quarantined: Limit = limit(warn=(None, 0.002), stop=(None, 0.02))
    """Share of rows that cannot be parsed."""
    quarantined_positives: Limit = limit(warn=(None, 0.01), stop=(None, 0.05))
    """Share of rows with label 1 that cannot be parsed, in excess of the share among all rows,
    beyond chance. An unreadable label counts as a possible 1."""
    events_matched: Limit = limit(warn=(0.98, None), stop=(0.9, None))
    """Share of a day's clicks (conversions) with a matching impression, over the usual share,
    beyond chance; only with `kind: events`."""
    events_repeated: Limit = limit(warn=(None, 0.01), stop=(None, 0.1))
    """Excess share of a day's clicks (conversions) that duplicate another one; they are dropped."""
    events_early: Limit = limit(warn=(None, 0.001), stop=(None, 0.02))
    """Share of a day's clicks (conversions) that are earlier than their impression."""
    event_delay: Limit = limit(warn=(0.5, 2.0), stop=(0.1, 10.0))
    """Median (95th percentile) of the time from impression to click (conversion), over the usual,
    beyond chance."""
    null_excess: Limit = limit(warn=(None, 0.01), stop=(None, 0.03))
    """Share of nulls in a column, in excess of the usual, beyond chance."""
    null_drop: Limit = limit(warn=(None, 0.1))
    """Usual share of nulls in a column minus the share on this day, beyond chance."""
    nan_excess: Limit = limit(warn=(None, 0.005), stop=(None, 0.02))
    """Share of NaN and infinite values in a column, in excess of the usual, beyond chance."""
    blank_excess: Limit = limit(warn=(None, 0.005), stop=(None, 0.03))
    """Share of blank texts in a column, in excess of the usual, beyond chance."""
    out_of_range: Limit = limit(warn=(None, 0.0005), stop=(None, 0.002))
    """Excess share of values far outside the range of all other days (10 times), or negative where
    no other day has negative values."""
    new_values: Limit = limit(warn=(None, 0.01), stop=(None, 0.05))
    """Excess share of rows with a value that no other day has, in columns with few distinct
    values."""
    lost_values: Limit = limit(warn=(None, 0.001), stop=(None, 0.01))
    """Total share, on other days, of values that all of them have and this day does not."""
    distinct_vs_usual: Limit = limit(warn=(0.6, 1.7), stop=(0.3, 3.0))
    """Number of distinct values of a column, over the usual number."""
    constant_columns: Limit = limit(warn=(None, 0))
    """1 for a column that has a single value on this day and several on others, beyond chance."""
    contradictions: Limit = limit(warn=(None, 0.0005), stop=(None, 0.002))
    """Excess share of rows that contradict themselves: a flag is set without the flag that it
    requires, or two times are in the wrong order."""
    label_rate_vs_usual: Limit = limit(warn=(0.8, 1.25), stop=(0.6, 1.6))
    """Label rate of a day, over the usual, beyond chance."""
    label_evening: Limit = limit(warn=(0.75, 1.4), stop=(0.5, 2.0))
    """Label rate of the last six hours relative to the other hours, over the usual ratio, beyond
    chance."""
    label_hour_low: Limit = limit(warn=(0.3, None), stop=(0.1, None))
    """Lowest label rate of an hour, or of the last two to six hours, over that of the other hours,
    beyond chance."""
    psi: Limit = limit(warn=(None, 0.1), stop=(None, 0.25))
    """Population stability index against the other days, beyond chance."""
    linf: Limit = limit(warn=(None, 0.08), stop=(None, 0.15))
    """Largest change in the share of a value (for numbers, in the distribution function)."""
    known_if_positive: Limit = limit(warn=(None, 0.3), stop=(None, 0.8))
    """How well the presence of a value in a feature's column reveals label 1: 0 means not at all, 1
    means always. Such a column is filled in after the event."""
    after_impression: Limit = limit(warn=(None, 0.05), stop=(None, 0.5))
    """Share of the times in a feature's column that are after the impression; 0 if most rows share
    their time with others (such as the end of a campaign)."""
    auc_gain: Limit = limit(warn=(None, 0.05), stop=(None, 0.12))
    """Increase in how well one column predicts the label (AUC), over the usual."""
    auc_loss: Limit = limit(warn=(None, 0.06), stop=(None, 0.15))
    """Decrease in how well one column predicts the label (AUC), below the usual. It reveals a stale
    or shuffled join, which leaves the distributions unchanged."""
    attribute_loss: Limit = limit(warn=(None, 0.05), stop=(None, 0.15))
    """Excess share of users (items) whose attribute differs from other days: a stale join or
    swapped ids."""
    concentration: Limit = limit(warn=(None, 0.03), stop=(None, 0.1))
    """Largest excess of one user's share of the rows or of the positives, such as a bot's."""


class FeaturesGate(GateLimits):
    """The model inputs of the night: splits against each other, earlier nights and the champion."""

    rows: Limit = limit(stop=(1, None))
    """Number of rows of a split."""
    lost_rows: Limit = limit(stop=(0, 0))
    """Number of sampled rows minus number of featurized rows."""
    missing_inputs: Limit = limit(stop=(None, 0))
    """Number of model inputs that a split does not have."""
    nulls: Limit = limit(stop=(None, 0))
    """Number of nulls in a model input."""
    not_finite: Limit = limit(stop=(None, 0))
    """Number of infinite and NaN values in a model input."""
    ids_out_of_range: Limit = limit(stop=(None, 0))
    """Number of ids beyond the size of their embedding table."""
    unreadable: Limit = limit(warn=(None, 0.0001), stop=(None, 0.02))
    """Share of the values that a feature cannot read as a number or time (`1.234,50`), or that are
    too large for float32. They count as missing; usual spellings of null are not counted."""
    constant: Limit = limit(warn=(None, 0))
    """1 for an input that is constant in the training rows."""
    newly_constant: Limit = limit(stop=(None, 0))
    """1 for an input that varies in the training rows but is constant in the newest rows."""
    oov: Limit = limit(warn=(None, 0.3), stop=(None, 0.9))
    """Share of the newest rows whose value is out of vocabulary, in excess of the training rows and
    as a share of their known values, beyond chance."""
    oov_excess: Limit = limit(warn=(None, 0.05), stop=(None, 0.2))
    """Share of the newest rows that are out of vocabulary, in excess of the median of earlier
    nights, beyond chance."""
    missing_excess: Limit = limit(warn=(None, 0.05), stop=(None, 0.15))
    """Share of id 0 (missing) in the newest rows, in excess of the training rows."""
    psi: Limit = limit(warn=(None, 0.25), stop=(None, 2.0))
    """Population stability index of the newest rows against the training rows, beyond chance."""
    psi_excess: Limit = limit(warn=(None, 0.1), stop=(None, 0.3))
    """Population stability index in excess of the largest one of earlier nights."""
    js: Limit = limit(warn=(None, 0.1), stop=(None, 0.5))
    """Jensen-Shannon divergence of the newest rows from the training rows, in bits, beyond
    chance."""
    linf: Limit = limit(warn=(None, 0.25), stop=(None, 0.9))
    """Largest change in the share of a value, newest rows against training rows."""
    psi_champion: Limit = limit(warn=(None, 0.25), stop=(None, 1.0))
    """Population stability index of the training rows against the champion's; ids are compared by
    the values that they stand for."""
    js_champion: Limit = limit(warn=(None, 0.1), stop=(None, 0.5))
    """Jensen-Shannon divergence of the training rows from the champion's, in bits."""
    linf_champion: Limit = limit(warn=(None, 0.25), stop=(None, 0.9))
    """Largest change in the share of a value since the champion's training rows."""
    vocabulary_churn: Limit = limit(warn=(None, 0.5), stop=(None, 0.95))
    """Share of the known values in the training rows for which the champion has no id."""
    single_auc: Limit = limit(warn=(None, 0.85), stop=(None, 0.93))
    """AUC of one input alone on the newest rows, beyond chance; its bins are ranked by their label
    rate in the training rows. A high AUC suggests a leak."""
    single_concordance: Limit = limit(warn=(None, 0.75), stop=(None, 0.85))
    """With `label.kind: value`, replaces `single_auc`: (1 + Gini) / 2, how well one input alone
    ranks the values."""
    single_auc_gap: Limit = limit(warn=(None, 0.08), stop=(None, 0.2))
    """AUC of one input alone on the training rows minus that on the newest rows, beyond chance. A
    gap means that the input was computed from the training labels."""
    label_rate_ratio: Limit = limit(warn=(0.7, 1.4), stop=(0.5, 2.0))
    """Label rate of the newest rows over that of the training rows."""
    position_as_input: Limit = limit(stop=(None, 0))
    """1 for a feature that reads `columns.position` and is not `training_only`. With a stop limit
    such a YAML is refused; `{warn: [null, 0]}` allows it with a warning."""
    skew_mismatches: Limit = limit(stop=(None, 0))
    """Number of cells that the serving path computes differently, compared bit by bit."""
    skew_rows: Limit = limit(stop=(1, None))
    """Number of rows compared for skew."""


class ModelGate(GateLimits):
    """The candidate on the newest rows."""

    worse_than_reference: Limit = limit(warn=(None, 0))
    """1 if the evaluation's verdict is that the candidate is worse than the champion (or, on the
    first night, the baseline). The night continues, and `promote` keeps the champion."""
    entropy_loss: Limit = limit(stop=(None, 0.002))
    """Normalized entropy minus that of the reference, beyond chance of the rows and of the seed
    (a standard deviation of 0.001 until `gates noise` has measured it)."""
    deviance_loss: Limit = limit(stop=(None, 0.005))
    """With `label.kind: value`: normalized deviance minus that of the reference, beyond chance."""
    gini_loss: Limit = limit(warn=(None, 0), stop=(None, 0.02))
    """With `label.kind: value`: normalized Gini coefficient of the reference minus that of the
    candidate, beyond chance."""
    auc_loss: Limit = limit(warn=(None, 0), stop=(None, 0.005))
    """AUC of the reference minus that of the candidate, beyond chance. It also applies to a
    candidate with better normalized entropy, which can be better calibrated but rank worse."""
    verdict_mixed: Limit = limit(warn=(None, 0))
    """1 if the candidate is better or neutral by normalized entropy (or deviance) but ranks
    significantly worse: `promote` keeps the champion."""
    seed_noise: Limit = limit(warn=(None, 0.002))
    """Standard deviation of the normalized entropy between seeds, from `gates.seed_noise`."""
    seed_noise_unknown: Limit = limit()
    """1 if seed noise was not measured for this model; `{stop: [null, 0]}` requires it."""
    new_day_loss: Limit = limit(warn=(None, 0.005))
    """With `train.mode: incremental`: normalized entropy of the new training day before the model
    learns it, minus the usual one since the last full training, beyond chance."""
    metrics_not_finite: Limit = limit(stop=(None, 0))
    """Number of metrics that are NaN or infinite."""
    positives: Limit = limit(warn=(200, None), stop=(10, None))
    """Number of evaluate rows with label 1, or with a value above 0."""
    auc: Limit = limit(warn=(0.55, None), stop=(0.51, None))
    """Area under the ROC curve on the newest rows; values below 0.55 are moved toward 0.55 by what
    chance explains."""
    gini: Limit = limit(warn=(0.05, None), stop=(0.01, None))
    """With `label.kind: value`: normalized Gini coefficient on the newest rows; 1 ranks the values
    perfectly, 0 is chance."""
    gini_jump: Limit = limit(warn=(None, 0.1), stop=(None, 0.3))
    """With `label.kind: value`: Gini coefficient minus the champion's, beyond chance; a jump
    usually means a leak."""
    deviance_vs_constant: Limit = limit(warn=(None, -0.001), stop=(None, 0))
    """With `label.kind: value`: normalized deviance minus that of predicting the mean value of the
    training rows; below 0 is better."""
    deviance_vs_baseline: Limit = limit(warn=(None, 0), stop=(None, 0.02))
    """With `label.kind: value`: normalized deviance minus that of the baseline."""
    auc_jump: Limit = limit(warn=(None, 0.05), stop=(None, 0.15))
    """AUC minus the champion's, beyond chance; a jump usually means a leak."""
    above_oracle: Limit = limit(warn=(None, 0.005), stop=(None, 0.02))
    """With simulated data: AUC minus that of the true probabilities, beyond chance."""
    normalized_entropy_vs_constant: Limit = limit(warn=(None, -0.001), stop=(None, 0))
    """Normalized entropy minus that of predicting the mean label; below 0 is better. Values above 0
    are reduced by what chance explains."""
    normalized_entropy_vs_baseline: Limit = limit(warn=(None, 0), stop=(None, 0.02))
    """Normalized entropy minus that of the baseline. Values above 0 are reduced by what chance
    explains."""
    calibration: Limit = limit(warn=(0.9, 1.1), stop=(0.75, 1.33))
    """Mean prediction over mean label (or value), beyond chance."""
    ece: Limit = limit(warn=(None, 0.03), stop=(None, 0.1))
    """Expected calibration error on the newest rows, in excess of that of labels redrawn from the
    predictions."""
    largest_tie: Limit = limit(warn=(None, 0.5), stop=(None, 0.95))
    """Share of the rows in the largest of twenty groups by prediction; 1 if all predictions are
    equal."""
    predictions_moved: Limit = limit(warn=(None, 0.5), stop=(None, 2.0))
    """Wasserstein distance between the predictions of candidate and reference on the same rows, as
    a multiple of the reference's mean prediction."""
    field_calibration: Limit = limit(warn=(None, 0.15), stop=(None, 0.5))
    """Total over- and underprediction across the values of a column in `evaluate.slices`, as a
    share of the positives, beyond chance."""
    slice_calibration: Limit = limit(warn=(0.75, 1.33), stop=(0.5, 2.0))
    """Mean prediction over mean label in a slice, beyond chance."""
    slice_deviance: Limit = limit(warn=(None, 0.01), stop=(None, 0.05))
    """With `label.kind: value`: normalized deviance of the candidate minus that of the reference in
    a slice, beyond chance."""
    slice_normalized_entropy: Limit = limit(warn=(None, 0.01), stop=(None, 0.05))
    """Normalized entropy of the candidate minus that of the reference in a slice, beyond chance."""
    slice_positives: int = Field(default=50, ge=1)
    """Slices with fewer positives (or values above 0) are not checked."""


class ValueGate(GateLimits):
    """What the candidate's bids would earn (`replay`) and the label rate of its choices (`policy`).

    By default these checks only warn; set `stop` limits to stop the night.
    """

    surplus_loss: Limit = limit(warn=(None, 0))
    """Share of the reference's surplus that the candidate loses, beyond chance. If the true
    probabilities are known, expected surplus is compared."""
    surplus: Limit = limit(warn=(0, None))
    """Surplus of the candidate: value minus spend, in the currency of the prices."""
    unusable_rows: Limit = limit(warn=(None, 0.001))
    """Share of evaluate rows without a usable price, left out of the replay."""
    price_ratio: Limit = limit(warn=(0.5, 2.0))
    """Median price of the evaluate days over that of the validate days."""
    policy_loss: Limit = limit(warn=(None, 0))
    """With `policy`: relative loss in label rate if the candidate had chosen the items, estimated
    by DR, beyond chance."""


class ServingGate(GateLimits):
    """The exported bundle and its load test."""

    p99_ms: Limit = limit(warn=(None, 20), stop=(None, 50))
    """99th percentile of the request latency in the load test, in milliseconds."""
    p50_ms: Limit = limit(warn=(None, 10))
    """Median request latency in the load test, in milliseconds."""
    requests_per_second_per_core: Limit = limit(warn=(50, None), stop=(10, None))
    """Throughput of one core in the load test, in requests per second."""
    rate_held: Limit = limit(warn=(1.0, None), stop=(0.25, None))
    """With `serve`: highest rate at which the scorer holds `serve.p99_ms` over its socket, as a
    share of `serve.requests_per_second`."""
    parity: Limit = limit(warn=(None, 1e-5), stop=(None, 1e-4))
    """Largest difference between predictions of the exported graph and of the trained model."""
    skew_mismatches: Limit = limit(stop=(None, 0))
    """Number of cells that the serving path computes differently, compared bit by bit."""
    skew_rows: Limit = limit(stop=(1, None))
    """Number of rows compared for skew."""
    bundle_mb: Limit = limit(warn=(None, 2000))
    """Size of the exported bundle, in megabytes."""
    refit_fallback: Limit = limit(warn=(None, 0))
    """1 if `train.refit` is unset and the judged model serves, because the refitted model cannot be
    compared with it or is outside a stop limit below. This warning never becomes a stop."""
    refit_loss: Limit = limit(warn=(None, 0), stop=(None, 0.01))
    """With `train.refit`: relative increase of the log loss on held-out rows, refitted over judged
    model, beyond chance."""
    refit_calibration: Limit = limit(warn=(0.9, 1.1), stop=(0.75, 1.33))
    """Mean prediction of the refitted model over the mean label on held-out rows, beyond
    chance."""
    refit_mean: Limit = limit(warn=(0.9, 1.1), stop=(0.75, 1.33))
    """Mean prediction of the refitted model over that of the judged one on held-out rows."""
    refit_agreement: Limit = limit(warn=(0.9, None), stop=(0.7, None))
    """Correlation between the log odds of the refitted and the judged model on held-out rows."""


class CostGate(GateLimits):
    """Costs as shares of the limits in the `budget` block."""

    run_share: Limit = limit(warn=(None, 0.8), stop=(None, 1))
    """Cost of the run over `budget.run_usd`."""
    stage_share: Limit = limit(warn=(None, 0.8), stop=(None, 1))
    """Cost of a stage over its limit in `budget.stage_usd`."""
