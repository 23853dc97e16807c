"""Great Expectations behind one function: a table of facts and rules in, what failed out.

The batch has one line per (subject, part) and one column per statistic, so that one expectation
judges a statistic on all columns and days at once, and its unexpected lines say where it fails.
Expectations on single rows are asked of a frame of rows.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nightbid.config.gate_limits import Range
from nightbid.gates.measurements import Measurement
from nightbid.night.manifest import Verdict

if TYPE_CHECKING:
    import pandas as pd

UNUSED = (
    "alembic",
    "boto3",
    "google.cloud.bigquery",
    "google.cloud.secretmanager",
    "google.cloud.storage",
    "pyspark",
    "sqlalchemy",
    "sqlalchemy_bigquery",
)
"""What Great Expectations imports where it is installed, for databases and clouds that gates never
ask: a third of the seconds of its import."""


@dataclass(frozen=True)
class Rule:
    """One limit."""

    column: str
    """Of the batch: a family, or a statistic with a band of its own."""
    range: Range
    verdict: Verdict


@dataclass(frozen=True, eq=False)
class Answer:
    """What one expectation found among single rows."""

    unexpected: int
    missing: int
    """Rows without a value: they were not asked."""
    where: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """The numbers of the unexpected rows."""


@dataclass(frozen=True)
class Validation:
    """What Great Expectations found."""

    failed: Sequence[tuple[Rule, str, str]] = ()
    """Rule, statistic and part of every figure outside its range."""
    result: Mapping[str, Any] | None = None
    page: str = ""
    """Its own page (Data Docs), without scripts."""


def validate(
    measurements: Sequence[Measurement], column_of: Mapping[str, str], rules: Sequence[Rule]
) -> Validation:
    """Judge facts by rules.

    Args:
        measurements: measured, finite.
        column_of: statistic → column of the batch.
        rules: ranges of columns.

    Raises:
        RuntimeError: an expectation could not be evaluated.
    """
    import pandas as pd

    with _quick_import():
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
        return Validation()
    batch = _batch(frame)
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
    # All at once: a suite that grows compares each with all before it.
    result = batch.validate(
        gx.ExpectationSuite(name="limits", expectations=expectations),
        result_format={
            "result_format": "COMPLETE",
            "unexpected_index_column_names": ["subject", "part"],
        },
    )
    failed: list[tuple[Rule, str, str]] = []
    for each in result.results:
        rule = rules[each.expectation_config.meta["rule"]]
        if each.success:
            continue
        if each.exception_info.get("raised_exception"):
            raise RuntimeError(f"the expectation on {rule.column} failed to run: {each}")
        for line in each.result["unexpected_index_list"]:
            subject = line["subject"]
            family = rule.column.partition(":")[0]
            failed.append((rule, f"{family}:{subject}" if subject else family, line["part"]))
    plain = result.to_json_dict()
    # Names and times of the engine differ between equal runs; the judgment does not.
    kept = [
        {key: each[key] for key in ("success", "expectation_config", "result")}
        for each in plain["results"]
    ]
    shown = {"success": plain["success"], "statistics": plain["statistics"], "results": kept}
    return Validation(failed, shown, _data_docs(result))


def ask(rows: pd.DataFrame, questions: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Answer]:
    """Ask expectations of single rows.

    Args:
        rows: one line each, numbered from 0 by their index.
        questions: class of the expectation without `Expect`, and its arguments.

    Raises:
        RuntimeError: an expectation could not be evaluated.
    """
    with _quick_import():
        import great_expectations as gx
        import great_expectations.expectations as gxe

    # A suite belongs to the context that the batch makes.
    batch = _batch(rows)
    expectations = [
        getattr(gxe, f"Expect{kind}")(**arguments, meta={"question": at})
        for at, (kind, arguments) in enumerate(questions)
    ]
    result = batch.validate(
        gx.ExpectationSuite(name="rows", expectations=expectations),
        # Rows by number: asked for columns instead, it looks up each of a row's cells by itself.
        result_format={"result_format": "COMPLETE", "exclude_unexpected_values": True},
    )
    answers: dict[int, Answer] = {}
    for each in result.results:
        at = each.expectation_config.meta["question"]
        if each.exception_info.get("raised_exception"):
            raise RuntimeError(f"the expectation {questions[at]} failed to run: {each}")
        found = each.result
        if "unexpected_count" in found:
            where = np.array(found.get("unexpected_index_list") or (), np.int64)
            answers[at] = Answer(found["unexpected_count"], found.get("missing_count") or 0, where)
        else:
            # Of the whole column: its observed value is the share that is as expected.
            answers[at] = Answer(round((1 - found["observed_value"]) * len(rows)), 0)
    return [answers[at] for at in range(len(questions))]


def _batch(frame: pd.DataFrame) -> Any:
    with _quick_import():
        import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("profile").add_dataframe_asset("facts")
    return asset.add_batch_definition_whole_dataframe("night").get_batch(
        batch_parameters={"dataframe": frame}
    )


@contextmanager
def _quick_import() -> Iterator[None]:
    """Import Great Expectations quietly and without the parts that gates never use."""
    # Neither the context nor a validation may call home from a production task.
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    loaded = "great_expectations" in sys.modules
    hidden = [name for name in UNUSED if not loaded and name not in sys.modules]
    for name in hidden:
        # Python's own way to say "not installed": the import raises ImportError.
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
        # It sets its own level to announce, at every gate, a folder for a site that is never built.
        logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)


def _data_docs(result: Any) -> str:
    from great_expectations.render.renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    page: str = DefaultJinjaPageView().render(ValidationResultsPageRenderer().render(result))
    # The page is served beside our own pages, so it brings no scripts from elsewhere;
    # the links to a site around it lead to our page.
    page = re.sub(r"<script\b.*?</script>", "", page, flags=re.DOTALL)
    return page.replace("../../../../index.html", "index.html")
