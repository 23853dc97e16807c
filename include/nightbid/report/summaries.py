"""Cached summaries of runs: a page of a thousand runs reads only the runs that have changed.

A summary is cached with a stamp, the times of the run's last changes (see `records.stamp`). A file
in the cache folder, which is safe to delete, keeps the summaries beyond the process.

At its end a night also writes its own summary next to its records: without a cache, a page reads
one small file per run instead of forty. It is valid as long as the run's records are unchanged.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import logging
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from nightbid.cost.forecast import MILLION
from nightbid.cost.ledger import totals
from nightbid.cost.money import Money
from nightbid.night.record import LAG, RunRecord
from nightbid.partitions import Partition
from nightbid.report import records
from nightbid.report.figures import words_of
from nightbid.report.run_page import headline
from nightbid.report.run_view import RunState, RunView
from nightbid.storage.files import write_atomically
from nightbid.storage.workspace import Workspace

LOG = logging.getLogger(__name__)
FORMAT = 5
"""Version of the format; summaries of other versions are computed again."""
Stamp = tuple[int | None, ...]
READERS = 16
"""Number of runs in a bucket that are read in parallel."""


class SummaryMetric(BaseModel):
    """A metric of the candidate, and its difference from the reference."""

    model_config = ConfigDict(frozen=True)

    value: float | None = None
    difference: dict[str, float | None] = {}
    """`value`, and `low` and `high` of its 95% interval."""


class GateMark(BaseModel):
    """Result of a gate."""

    model_config = ConfigDict(frozen=True)

    gate: str
    word: str
    """Result: `pass`, `warn`, `stop`, `failed` or `waiting`."""


class RunMonthCost(BaseModel):
    """Cost of a run within a month."""

    model_config = ConfigDict(frozen=True)

    month: str
    """Month as YYYY-MM."""
    cloud: Decimal
    here: Decimal
    currency: str


class RunSummary(BaseModel):
    """Summary of a run, for a row of a table."""

    model_config = ConfigDict(frozen=True)

    pipeline: str
    run_id: str
    date: Partition
    started: dt.datetime
    trigger: str
    sweep: str = ""
    """Name of the sweep that the run is a trial of; empty for a night."""
    changed: bool = False
    """Whether settings were changed for this run, which makes it an experiment."""
    state: RunState
    headline: str
    verdict: str = ""
    """Verdict: `better`, `neutral`, `undecided`, `mixed` or `worse`; empty without evaluation."""
    reference: str = ""
    is_value: bool = False
    """Whether models predict values; `auc` is then the Gini coefficient, `entropy` the deviance."""
    auc: SummaryMetric = SummaryMetric()
    entropy: SummaryMetric = SummaryMetric()
    """Normalized entropy; lower is better."""
    gates: tuple[GateMark, ...]
    promoted: bool
    seconds: float
    spent: tuple[RunMonthCost, ...]
    budget: Decimal | None
    rows: int = 0
    """Number of rows read from the logs."""
    trained: bool = False
    """Whether the run trained a model itself; only such nights have a representative cost."""

    @property
    def kind(self) -> str:
        """Kind of the run: `night`, `backfill`, `experiment` or `sweep`."""
        if self.sweep:
            return "sweep"
        if self.changed:
            return "experiment"
        return "backfill" if self.trigger == "backfill" else "night"

    @property
    def per_million_rows(self) -> Decimal | None:
        """Cost per million rows at cloud prices; None if training was reused or no row was read."""
        return self.cost.amount * MILLION / self.rows if self.trained and self.rows else None

    @property
    def cost(self) -> Money:
        """Cost of all attempts at cloud prices."""
        return Money.total(Money(spent.cloud, spent.currency) for spent in self.spent)


class _StampedSummary(BaseModel):
    stamp: Stamp
    summary: RunSummary


class _Own(BaseModel):
    version: int = FORMAT
    state: str
    """State of the records that the summary was computed from, see `records.state`."""
    summary: RunSummary


class _Index(BaseModel):
    version: int = FORMAT
    kept: dict[str, dict[str, _StampedSummary]] = {}
    """Pipeline → run id → summary."""


def summarize(run: RunRecord) -> RunSummary:
    """Compute the summary of a run from all of its records."""
    view = RunView(run)
    metrics = view.evaluation
    words = words_of(metrics)
    cloud, here = totals(view.costs, "month"), totals(view.costs, "month", here=True)
    return RunSummary(
        pipeline=run.head.pipeline,
        run_id=run.run_id,
        date=run.date,
        started=run.head.started,
        trigger=run.head.trigger,
        sweep=run.head.sweep,
        changed=any(not override.startswith(LAG) for override in run.head.overrides),
        state=view.state,
        headline=headline(view),
        verdict=metrics.get("verdict", ""),
        reference=metrics.get("reference", ""),
        is_value=metrics.get("kind") == "value",
        auc=_figure(metrics, words.rank),
        entropy=_figure(metrics, words.loss),
        gates=tuple(
            GateMark(gate=stage.name.removeprefix("gate_"), word=stage.verdict or stage.state)
            for stage in view.stages
            if stage.is_gate
        ),
        promoted=view.stage("promote").metrics.get("decision") == "promoted",
        seconds=view.seconds,
        spent=tuple(
            RunMonthCost(
                month=month, cloud=cost.amount, here=here[month].amount, currency=cost.currency
            )
            for month, cost in sorted(cloud.items())
        ),
        budget=view.budget,
        rows=sampled.rows.read if (sampled := view.stage("sample").manifest) else 0,
        trained=any(
            record.state == "done" and not record.reused
            for stage in view.stages
            if stage.name.startswith("train")
            for record in stage.attempts
        ),
    )


def _figure(metrics: dict[str, Any], name: str) -> SummaryMetric:
    return SummaryMetric(
        value=(metrics.get("candidate") or {}).get(name),
        difference=(metrics.get("difference") or {}).get(name) or {},
    )


class Summaries:
    """Summaries of all runs of a workspace. Any number of threads and processes may share a file.

    Args:
        workspace: Workspace with the runs.
        cache: Folder for the file of cached summaries.
    """

    def __init__(self, workspace: Workspace, cache: Path) -> None:
        self._workspace = workspace
        name = hashlib.sha256(os.fsencode(str(workspace.root))).hexdigest()[:16]
        self._file = cache / "pages" / f"{name}.json"
        self._lock = threading.Lock()
        self._kept: dict[str, dict[str, _StampedSummary]] | None = None

    def of(self, pipeline: str) -> list[RunSummary]:
        """List the summaries of all runs of a pipeline, in the order of their start."""
        with self._lock:
            if self._kept is None:
                self._kept = self._load()
            before = self._kept.get(pipeline, {})
            after: dict[str, _StampedSummary] = {}
            marks = records.ledger_marks(pipeline)
            unknown: dict[str, Stamp | None] = {}
            for name in records.run_ids(self._workspace, pipeline):
                stamp = records.stamp(self._workspace, pipeline, name, marks)
                entry = before.get(name)
                if entry is not None and stamp is not None and entry.stamp == stamp:
                    after[name] = entry
                else:
                    unknown[name] = stamp
            for name, summary in self._read_all(pipeline, unknown, marks):
                after[name] = _StampedSummary(stamp=unknown[name] or (), summary=summary)
            self._kept[pipeline] = after
            if any(stamp is not None and name in after for name, stamp in unknown.items()):
                self._save()
            summaries = [entry.summary for entry in after.values()]
        return sorted(summaries, key=lambda summary: (summary.started, summary.run_id))

    def keep(self, run: RunRecord) -> None:
        """Write the summary of a run, as of now, next to its records."""
        pipeline = run.head.pipeline
        marks = records.ledger_marks(pipeline)
        state = records.state(self._workspace, pipeline, run.run_id, marks)
        own = _Own(state=state, summary=summarize(run))
        write_atomically(run.folder / records.OWN_SUMMARY, own.model_dump_json())

    def _read_all(
        self, pipeline: str, names: Iterable[str], marks: Mapping[str, int] | None
    ) -> Iterator[tuple[str, RunSummary]]:
        def read(name: str) -> tuple[str, RunSummary | None]:
            return name, self._read(pipeline, name, marks)

        with contextlib.ExitStack() as stack:
            apply = (
                map
                if self._workspace.is_local
                else stack.enter_context(ThreadPoolExecutor(READERS)).map
            )
            for name, summary in apply(read, names):
                if summary is not None:
                    yield name, summary

    def _read(self, pipeline: str, name: str, marks: Mapping[str, int] | None) -> RunSummary | None:
        """Read the run's own summary if it is still valid, else compute it from the records."""
        left = records.own_summary(self._workspace, pipeline, name)
        if left is not None:
            with contextlib.suppress(ValidationError):
                own = _Own.model_validate_json(left)
                state = records.state(self._workspace, pipeline, name, marks)
                if own.version == FORMAT and own.state == state:
                    return own.summary
        run = records.run(self._workspace, pipeline, name)
        return summarize(run) if run is not None else None

    def _load(self) -> dict[str, dict[str, _StampedSummary]]:
        try:
            index = _Index.model_validate_json(self._file.read_bytes())
        except (FileNotFoundError, ValidationError):
            return {}
        return index.kept if index.version == FORMAT else {}

    def _save(self) -> None:
        try:
            content = _Index(kept=self._kept or {}).model_dump_json().encode()
            write_atomically(self._file, content)
        except OSError as error:
            # Without the file, the pages are only slower after a restart.
            LOG.warning("summaries are not kept: %s", error)
