"""Catalog of all checks: meaning, likely causes and what to do, for pages, messages and documents.

The meaning is the docstring of the limit's field in `nightbid.config.gate_limits`. A test keeps
this table consistent with the limits of the gates.
"""

from __future__ import annotations

from dataclasses import dataclass

from nightbid.config.base import Block
from nightbid.config.document import meanings_of
from nightbid.config.gate_limits import Limit
from nightbid.config.gates import GATES, Gates, statistics_of

LOAD = "Load the day again from its source, then clear `sample` with *Downstream*."
LOOK = "Inspect the day's rows: `nightbid data show {pipeline} --date {night}`."
RIGHT = (
    "If the change is intended (a launch, a new producer), override the check until it has become"
    " normal."
)
CODE = "Compare with the code and settings of the last good run: `nightbid compare`."


@dataclass(frozen=True)
class CheckDoc:
    """One check of one gate."""

    gate: str
    statistic: str
    meaning: str
    causes: str
    do: tuple[str, ...]
    limit: Limit
    """Default limit of the package."""

    def steps(self, pipeline: str, night: str = "NIGHT") -> list[str]:
        """Get the steps to take, with the names of the pipeline and the night filled in."""
        filled = {"{pipeline}": pipeline, "{night}": night}
        steps = []
        for step in self.do:
            for key, value in filled.items():
                step = step.replace(key, value)
            steps.append(step)
        return steps

    def command(self, pipeline: str, check: str = "", until: str = "YYYY-MM-DD") -> str:
        """Get the command that overrides the check for a while.

        Args:
            pipeline: Name of the pipeline.
            check: Statistic with its column, as the gate's page shows it; empty: all columns.
            until: Last night of the override.
        """
        name = check or self.statistic
        return (
            f"nightbid gates override {pipeline} '{self.gate}/{name}' --name YOU"
            f' --reason "why it is safe" --until {until}'
        )


_Entry = tuple[str, tuple[str, ...]]
"""(Likely causes, what to do)."""

_RAW: dict[str, _Entry] = {
    "missing_days": ("the export of a day failed or is late", (LOAD,)),
    "rows": ("an empty or half-written partition", (LOAD,)),
    "rows_vs_usual": ("a producer is down, a partition is cut off or written twice; a holiday",
                      (LOOK, LOAD, RIGHT)),
    "missing_columns": ("the log's schema changed", ("Restore the column, or map it with"
                        " `source.rename`.",)),
    "changed_types": ("the log's schema changed", ("Fix the producer, or set `source.types`.",)),
    "widened_types": ("another writer or library version wrote the day", (
        "Nothing if it lasts: types are unified over the window. Otherwise set `source.types`.",)),
    "missing_hours": ("an outage of the producer or the export",
                      (LOAD,)),
    "hour_low": ("an outage within the day, late arrivals", (LOOK, LOAD)),
    "hour_high": ("rows written twice, a replay, a bot", (LOOK, RIGHT)),
    "clock_shift": ("times in another time zone, a daylight saving change", (
        "Compare the hours of the day with those of other days; fix the zone of `columns.time`.",)),
    "outside_day": ("partitions cut by another clock than UTC", (
        "Cut the partitions by UTC, or set a band if the source cannot.",)),
    "future_rows": ("a wrong clock of a producer", (LOOK,)),
    "duplicates": ("a retry of the export, a join that multiplies rows", (LOAD,)),
    "repeated_positives": ("impressions are logged again with their click", (
        "Join the rows of clicks: `kind: events`, with `only` for the clicks (docs/data.md).",)),
    "quarantined": ("a changed format of one producer", (
        "Read the reasons, each with an example: `nightbid gates show {pipeline} RUN`.", LOAD)),
    "quarantined_positives": ("labels in a new spelling", (
        "Read the quarantined labels on the run's page; fix the producer.",)),
    "events_matched": ("impressions of an hour are lost, or ids are written in another way", (
        "Inspect the quarantined ids: `nightbid gates show {pipeline} RUN`; load the impressions"
        " again.",)),
    "events_repeated": ("a retry of the producer or the export", (LOOK, RIGHT)),
    "events_early": ("the clock of a producer", ("Compare the clocks of both producers.",)),
    "event_delay": ("a log that is flushed late, a clock, another attribution", (LOOK, RIGHT)),
    "null_excess": ("a field is no longer filled, a join lost its right side", (LOOK, LOAD, RIGHT)),
    "null_drop": ("nulls are now filled with a default", (LOOK, RIGHT)),
    "nan_excess": ("a division by zero upstream", (LOOK,)),
    "blank_excess": ("a field is filled with empty text instead of null", (LOOK,)),
    "out_of_range": ("another unit, a sentinel such as -1 or 9e9", (LOOK,)),
    "new_values": ("a launch (new platform, format), or a renamed value", (LOOK, RIGHT)),
    "lost_values": ("a producer is down, or a value was renamed", (LOOK, LOAD, RIGHT)),
    "distinct_vs_usual": ("ids hashed in another way, a partial export", (LOOK, LOAD)),
    "constant_columns": ("a default in place of the value", (LOOK,)),
    "contradictions": ("a flag without the flag that it requires, a clock that goes back", (LOOK,)),
    "label_rate_vs_usual": ("late labels, a changed attribution, a bot; or a sale", (LOOK, RIGHT)),
    "label_evening": ("labels of the evening have not arrived yet", (
        "Run the night later, or load the labels again.",)),
    "label_hour_low": ("an outage of the label's producer within the day", (LOOK, LOAD)),
    "psi": ("users or ads changed: a campaign, a launch, a lost region", (LOOK, RIGHT)),
    "linf": ("one value took over or vanished", (LOOK, RIGHT)),
    "auc_gain": ("the column contains the label (a leak)", (
        "Name it in `source.outcomes` if it is known only after the impression.",)),
    "known_if_positive": ("the column is filled in after the click or conversion (a leak)", (
        "Remove the feature, or name its column in `source.outcomes`.",)),
    "after_impression": ("the column holds the time of a later event (a leak)", (
        "Remove the feature, or name its column in `source.outcomes`.",)),
    "auc_loss": ("a stale or shuffled join", (LOOK, LOAD)),
    "attribute_loss": ("a stale join, swapped ids", (LOOK, LOAD)),
    "concentration": ("a bot, a test user, or a new text that means no user", (
        "Remove the user from the logs, or list the text in `columns.anonymous`.",)),
}  # fmt: skip
_FEATURES: dict[str, _Entry] = {
    "rows": ("the window is empty after sampling", (
        "Check the stage `sample` on the run's page.",)),
    "lost_rows": ("a bug in featurization", (CODE,)),
    "missing_inputs": ("a bug in a feature", (CODE,)),
    "nulls": ("a bug in a feature", (CODE,)),
    "not_finite": ("a bug in a feature", (CODE,)),
    "ids_out_of_range": ("a bug in a feature",
                         (CODE,)),
    "unreadable": ("text in a numeric column, another decimal mark", (
        "Set `source.decimal` or fix the producer.",)),
    "constant": ("a column of one value", ("Remove the feature, or fix its column.",)),
    "newly_constant": ("the newest day has a default in place of the value", (LOOK, LOAD)),
    "oov": ("ids change faster than the window learns them", (
                "Lower `min_count`, raise `window.train_days`.",)),
    "oov_excess": ("ids renamed or hashed in another way", (LOOK, RIGHT)),
    "missing_excess": ("a field is no longer filled", (LOOK, LOAD)),
    "psi": ("the newest days differ from the training days", (LOOK, RIGHT)),
    "psi_excess": ("more drift than on any earlier night", (LOOK, RIGHT)),
    "js": ("the newest days differ from the training days", (LOOK, RIGHT)),
    "linf": ("one value took over or vanished", (LOOK, RIGHT)),
    "psi_champion": ("the logs changed since the champion was trained", (LOOK, RIGHT)),
    "js_champion": ("the logs changed since the champion was trained", (LOOK, RIGHT)),
    "linf_champion": ("the logs changed since the champion was trained", (LOOK, RIGHT)),
    "vocabulary_churn": ("ids renamed; or the champion is months old", (
        "If the ids are right, override the check for one night: the next champion will know"
        " them.",)),
    "single_auc": ("the input contains the label (a leak)", (
        "Remove the feature, or name its column in `source.outcomes`.",)),
    "single_concordance": ("the input contains the amount (a leak)", (
        "Remove the feature, or name its column in `source.outcomes`.",)),
    "single_auc_gap": ("the input was made from labels of the training rows", (
        "Compute it from earlier days only, as `target_rate` does.",)),
    "label_rate_ratio": ("late labels, a changed attribution", (LOOK, RIGHT)),
    "position_as_input": ("a feature reads the position of the ad, which is not known when"
                          " serving", ("Set `training_only: true` on that feature.",)),
    "skew_mismatches": ("a feature is computed differently when serving", (CODE,)),
    "skew_rows": ("too few rows to compare", ("Widen the window.",)),
}  # fmt: skip
_MODEL: dict[str, _Entry] = {
    "worse_than_reference": ("the night's rows or settings made the model worse", (CODE,)),
    "entropy_loss": ("the night's rows or settings made the model worse", (CODE, LOOK)),
    "deviance_loss": ("the night's rows or settings made the model worse", (CODE, LOOK)),
    "gini_loss": ("the candidate is calibrated better and ranks worse", (
        "Look at the slices on the run's page: a lost feature, too few epochs.", CODE)),
    "auc_loss": ("the candidate is calibrated better and ranks worse", (
        "Look at the slices on the run's page: a lost feature, too few epochs.", CODE)),
    "verdict_mixed": ("the candidate is calibrated better and ranks worse", (
        "Nothing is promoted. Compare with the champion: `nightbid compare`.",)),
    "seed_noise": ("training is unstable", ("Lower `train.learning_rate`; average weights.",)),
    "seed_noise_unknown": ("the model changed since the noise was measured", (
        "`nightbid gates noise {pipeline}`, review, rename the file.",)),
    "new_day_loss": ("the day has bad data, or user behavior has changed", (
        "Inspect the day: `nightbid data show {pipeline} --date DAY`.",
        "If the data is bad: `nightbid incremental undo {pipeline} DAY --reason …`, then run the"
        " night"
        " again.",)),
    "metrics_not_finite": ("training diverged", (
        "Lower `train.learning_rate`.",)),
    "positives": ("a short window, or few rows in it", (
        "Raise `window.evaluate_days`.",)),
    "auc": ("a broken feature or label", (
        LOOK, CODE)),
    "gini": ("a broken feature or label, or values that the features do not explain", (
        LOOK, CODE)),
    "gini_jump": ("a leak", ("Look for a column that is known only after the impression.",)),
    "deviance_vs_constant": ("the model learned nothing", (CODE,)),
    "deviance_vs_baseline": ("the large model is poorly fitted", (
        "Try fewer epochs, a lower `train.learning_rate`, or the other `label.distribution`.",)),
    "auc_jump": ("a leak", ("Look for a column that is known only after the impression.",)),
    "above_oracle": ("a leak", (
        "Look for a column that is known only after the impression.",)),
    "normalized_entropy_vs_constant": ("the model learned nothing", (CODE,)),
    "normalized_entropy_vs_baseline": ("the large model is poorly fitted", (
        "Try fewer epochs or a lower `train.learning_rate`.",)),
    "calibration": ("the rate of the label moved between training and newest days", (
        LOOK, "Set `train.calibration`.")),
    "ece": ("see `calibration`", (LOOK,)),
    "largest_tie": ("the model predicts a constant", (CODE,)),
    "predictions_moved": ("a changed feature or label", (CODE, RIGHT)),
    "field_calibration": ("the model is too high on some values and too low on others",
                          (LOOK, RIGHT)),
    "slice_calibration": ("one slice changed: a launch, a lost feature", (LOOK, RIGHT)),
    "slice_deviance": ("one slice became worse", (LOOK, CODE)),
    "slice_normalized_entropy": ("one slice became worse", (LOOK, CODE)),
}  # fmt: skip
_SERVING: dict[str, _Entry] = {
    "p99_ms": ("a larger model, a busy machine", (
                   "Run the night again when the machine is quiet; else make the model smaller.",)),
    "p50_ms": ("a larger model, a busy machine", (
                   "Run the night again when the machine is quiet; else make the model smaller.",)),
    "requests_per_second_per_core": ("a larger model, a busy machine", (
        "Run the night again when the machine is quiet; else make the model smaller.",)),
    "rate_held": ("a larger model, a busy machine, or an objective out of reach", (
        "Run the night again when the machine is quiet; else set `serve.processes` or make the"
        " model smaller.",)),
    "parity": ("an operation that the exported graph computes differently", (CODE,)),
    "skew_mismatches": ("a feature is computed differently when serving", (CODE,)),
    "skew_rows": ("too few rows to compare", (
        "Widen the window.",)),
    "bundle_mb": ("large embeddings", (
        "Raise `min_count` or lower `embedding_dim`.",)),
    "refit_fallback": ("few held-out users or positives, or training is unstable", (
        "Nothing: the judged model serves. `train.refit: false` does the same without the warning.",
        "If it lasts: widen `window.validate_days` or `evaluate_days`.",)),
    "refit_loss": ("the newest days have patterns that do not last, or training is unstable",
                   (CODE, "Set `train.refit: false` to serve the judged model.")),
    "refit_calibration": ("the newest days differ, or training is unstable", (
        "Set `train.refit: false` to serve the judged model.",)),
    "refit_mean": ("the newest days differ, or training is unstable", (
        "Set `train.refit: false` to serve the judged model.",)),
    "refit_agreement": ("training is unstable: few rows, a high learning rate", (
        "Set `train.refit: false` to serve the judged model.",)),
}  # fmt: skip
_COST: dict[str, _Entry] = {
    "run_share": ("more rows, retries, a larger model", (
        "`nightbid cost show {pipeline} --by stage --run-id RUN`; then raise the budget, or fix"
        " what grew.",)),
    "stage_share": ("more rows, retries, a larger model", (
        "`nightbid cost show {pipeline} --by stage --run-id RUN`.",)),
}  # fmt: skip
_VALUE: dict[str, _Entry] = {
    "surplus_loss": ("the candidate bids worse than the champion", (CODE,)),
    "surplus": ("`replay.value` does not fit the prices", ("Check `replay.value`.",)),
    "unusable_rows": ("prices are missing or negative", (LOOK,)),
    "price_ratio": ("prices in another unit (micros, CPM)", (
        "Fix the unit of `columns.price`.",)),
    "policy_loss": ("the candidate ranks items worse than those who chose them", (CODE,)),
}  # fmt: skip
_TABLE: dict[str, dict[str, _Entry]] = {
    "raw": _RAW, "features": _FEATURES, "model": _MODEL, "serving": _SERVING, "cost": _COST,
    "value": _VALUE,
}  # fmt: skip


def checks_of(gate: str) -> list[CheckDoc]:
    """List the checks of a gate, in the order of its limits.

    A check without an entry of its own has its meaning and general advice.
    """
    block: Block = getattr(Gates(), gate)
    known = meanings_of(type(block))
    checks = []
    for name in statistics_of(gate):
        causes, do = _TABLE.get(gate, {}).get(name, ("", (LOOK, RIGHT)))
        checks.append(CheckDoc(gate, name, known.get(name, ""), causes, do, getattr(block, name)))
    return checks


def find_check(gate: str, check: str) -> CheckDoc | None:
    """Look up a check by its gate and its name, with or without a column; None if unknown."""
    if gate not in GATES:
        return None
    name = check.partition(":")[0]
    return next((doc for doc in checks_of(gate) if doc.statistic == name), None)


def has_entry(gate: str, statistic: str) -> bool:
    """Whether the table has an entry for a check."""
    return statistic in _TABLE.get(gate, {})
