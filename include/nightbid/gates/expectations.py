"""Wrapper around Great Expectations: takes measurements and rules, returns what failed.

The batch has one row per (subject, part) and one column per statistic, so that one expectation
judges a statistic on all columns and days at once, and its unexpected rows say where it fails.
Expectations on single rows of the logs are evaluated on a data frame of these rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nightbid.config.gate_limits import Range
from nightbid.gates.measurements import Measurement
from nightbid.gates.quick_engine import batch_of, page_of, quick_import, without_fingerprint
from nightbid.night.manifest import Verdict

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class RangeRule:
    """A range that a column of the batch must be in."""

    column: str
    """Column of the batch: a family, or a statistic with a band of its own."""
    range: Range
    verdict: Verdict


@dataclass(frozen=True, eq=False)
class RowExpectationResult:
    """Result of one expectation on single rows."""

    unexpected: int
    missing: int
    """Number of rows without a value, which were not evaluated."""
    where: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """Row numbers of the unexpected rows, from 0."""


@dataclass(frozen=True)
class SuiteValidation:
    """Result of a validation by Great Expectations."""

    failed: Sequence[tuple[RangeRule, str, str]] = ()
    """(RangeRule, statistic, part) of each measurement outside its range."""
    result: Mapping[str, Any] | None = None
    page: str = ""
    """HTML page of Great Expectations (Data Docs), without scripts."""


def validate(
    measurements: Sequence[Measurement], column_of: Mapping[str, str], rules: Sequence[RangeRule]
) -> SuiteValidation:
    """Judge measurements by rules.

    Args:
        measurements: Measurements with finite values.
        column_of: Statistic → column of the batch.
        rules: Ranges of the columns.

    Raises:
        RuntimeError: An expectation could not be evaluated.
    """
    import pandas as pd

    with quick_import():
        import great_expectations as gx
        import great_expectations.expectations as gxe

    lines: dict[tuple[str, str], dict[str, Any]] = {}
    for measurement in measurements:
        line = lines.setdefault(
            (measurement.subject, measurement.part),
            {"subject": measurement.subject, "part": measurement.part},
        )
        line[column_of[measurement.statistic]] = measurement.value
    frame = pd.DataFrame(list(lines.values()))
    rules = [rule for rule in rules if rule.column in frame.columns]
    if not rules:
        return SuiteValidation()
    batch = batch_of(frame)
    expectations = [
        gxe.ExpectColumnValuesToBeBetween(
            column=rule.column,
            min_value=rule.range[0],
            max_value=rule.range[1],
            severity="critical" if rule.verdict == "stop" else "warning",
            meta={"rule": at},
        )
        for at, rule in enumerate(rules)
    ]
    # Add all expectations at once, because each addition is compared with all previous ones.
    result = batch.validate(
        gx.ExpectationSuite(name="limits", expectations=expectations),
        result_format={
            "result_format": "COMPLETE",
            "unexpected_index_column_names": ["subject", "part"],
        },
    )
    failed: list[tuple[RangeRule, str, str]] = []
    for outcome in result.results:
        rule = rules[outcome.expectation_config.meta["rule"]]
        if outcome.success:
            continue
        if outcome.exception_info.get("raised_exception"):
            raise RuntimeError(f"the expectation on {rule.column} failed to run: {outcome}")
        for line in outcome.result["unexpected_index_list"]:
            subject = line["subject"]
            family = rule.column.partition(":")[0]
            failed.append((rule, f"{family}:{subject}" if subject else family, line["part"]))
    plain = result.to_json_dict()
    # Remove the engine's names and times, which differ between equal runs.
    records = [
        {key: record[key] for key in ("success", "expectation_config", "result")}
        for record in plain["results"]
    ]
    shown = {"success": plain["success"], "statistics": plain["statistics"], "results": records}
    return SuiteValidation(failed, shown, page_of(result))


def ask(
    rows: pd.DataFrame, questions: Sequence[tuple[str, Mapping[str, Any]]]
) -> list[RowExpectationResult]:
    """Evaluate expectations on single rows.

    Args:
        rows: Rows of the logs, whose index counts from 0.
        questions: (Class of the expectation without `Expect`, its arguments) of each expectation.

    Raises:
        RuntimeError: An expectation could not be evaluated.
    """
    with quick_import():
        import great_expectations as gx
        import great_expectations.expectations as gxe

    expectations = [
        getattr(gxe, f"Expect{kind}")(**arguments, meta={"question": at})
        for at, (kind, arguments) in enumerate(questions)
    ]
    with without_fingerprint():
        # A suite belongs to the context that the batch creates.
        batch = batch_of(rows)
        result = batch.validate(
            gx.ExpectationSuite(name="rows", expectations=expectations),
            # Ask for row numbers; if asked for columns, the engine looks up each cell separately.
            result_format={"result_format": "COMPLETE", "exclude_unexpected_values": True},
        )
    answers: dict[int, RowExpectationResult] = {}
    for outcome in result.results:
        at = outcome.expectation_config.meta["question"]
        if outcome.exception_info.get("raised_exception"):
            raise RuntimeError(f"the expectation {questions[at]} failed to run: {outcome}")
        details = outcome.result
        if "unexpected_count" in details:
            where = np.array(details.get("unexpected_index_list") or (), np.int64)
            answers[at] = RowExpectationResult(
                details["unexpected_count"], details.get("missing_count") or 0, where
            )
        else:
            # An expectation on the whole column: its observed value is the share of expected rows.
            answers[at] = RowExpectationResult(
                round((1 - details["observed_value"]) * len(rows)), 0
            )
    return [answers[at] for at in range(len(questions))]
