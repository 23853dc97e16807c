"""Watchdog for nights that never started, stall or are late. It reads run records only.

It does not ask Airflow: a dead scheduler, a paused or deleted DAG and a machine that is down all
look the same from outside, namely as a missing night. A pipeline is expected to run once its
schedule has started a first night, or if it is named explicitly.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import hashlib
import json
import logging
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from croniter import croniter
from upath import UPath

from nightbid.alerts.message import Alert, AlertMessage, page_address, what_serves
from nightbid.clock import SKEW_SECONDS, is_fresh, time_of
from nightbid.config.load import find_pipeline, pipeline_names
from nightbid.config.pipeline import PipelineSpec
from nightbid.config.settings import Settings
from nightbid.cost.budget import read_usage_log
from nightbid.counts import counted
from nightbid.errors import ConfigError, CorruptDataError
from nightbid.jobs.store import job_records
from nightbid.night.attempts import APPROVE, ARRIVAL, StageRecord, current
from nightbid.night.record import HEARTBEAT, WAITING, RunRecord, state_of
from nightbid.report import records
from nightbid.storage.files import write_atomically
from nightbid.storage.workspace import Workspace

log = logging.getLogger(__name__)
LOOK_BACK_DAYS = 3
"""Runs that were started longer ago are ignored."""
QUEUED_MINUTES = 120
"""Maximum wait of a night without a running stage while another night runs one."""


@dataclass(frozen=True)
class Patience:
    """Time before each kind of silence becomes an alert, in minutes."""

    missing: float = 10
    """From the scheduled time until a run of the night must have started."""
    stalled: float = 10
    """From the end of a stage to the start of the next, if no stage runs in the workspace."""
    late: float = 360
    """From the start of a night to its end, without waiting for an approval."""


class Watch:
    """Checks the nights of a workspace and reports new problems.

    Args:
        settings: Settings with the workspace and the pipelines.
        patience: Waiting times; None: the defaults.
        expected: Pipelines to alert for even if their schedule has not started a night yet.
    """

    def __init__(
        self, settings: Settings, patience: Patience | None = None, expected: Collection[str] = ()
    ) -> None:
        self._settings = settings
        self._workspace = Workspace(settings.workspace)
        self._patience = patience or Patience()
        self._expected = expected

    def look(self, now: dt.datetime) -> list[Alert]:
        """Return all problems at a time, whether or not they were reported before."""
        alerts: list[Alert] = []
        runs = {name: self._runs(name, alerts) for name in self._names()}
        recent = [
            run
            for pipeline_runs in runs.values()
            for run in pipeline_runs
            if now - run.head.started < dt.timedelta(days=LOOK_BACK_DAYS)
        ]
        busy = any(self._last_sign(run, now)[1] for run in recent)
        files = _files(self._settings.pipelines)
        for name in pipeline_names(self._settings.pipelines):
            spec = _pipeline(name, self._settings.pipelines, files)
            if isinstance(spec, str):
                digest = hashlib.sha256(spec.encode()).hexdigest()[:12]
                alerts.append(self._alert(f"broken {digest}", "broken_pipeline", name, spec))
                continue
            if missing := self._missing(spec, runs.get(name, []), now):
                alerts.append(missing)
        for run in recent:
            alerts += self._silent(run, now, busy)
        return alerts

    def tell(self, now: dt.datetime, send: Callable[[AlertMessage], object]) -> list[Alert]:
        """Check for problems and send those that have not been sent yet.

        Args:
            now: Current time.
            send: Delivers a message; if it raises an error, the message is sent again at the next
                check.

        Returns:
            The alerts that were sent.
        """
        reported = self._told()
        new = [alert for alert in self.look(now) if alert.key not in reported]
        sent = []
        for alert in new:
            try:
                send(alert.message)
            except (OSError, ConfigError) as error:
                log.error("not sent, will try again at the next check: %s", error)
                continue
            reported[alert.key] = now.isoformat()
            sent.append(alert)
        if sent:
            write_atomically(self._file, json.dumps(reported, indent=1, sort_keys=True))
        return sent

    @property
    def _file(self) -> UPath:
        return self._workspace.root / "watch" / "told.json"

    def _told(self) -> dict[str, str]:
        try:
            reported = json.loads(self._file.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return reported if isinstance(reported, dict) else {}

    def _names(self) -> list[str]:
        return sorted({*records.pipelines(self._workspace), *self._expected})

    def _runs(self, pipeline: str, alerts: list[Alert]) -> list[RunRecord]:
        """Nights of a pipeline; unreadable records become alerts."""
        runs = []
        for run_id in records.run_ids(self._workspace, pipeline):
            run = records.run(self._workspace, pipeline, run_id)
            if run is None:
                path = self._workspace.run_folder(pipeline, run_id) / "run.json"
                if path.exists():
                    summary = f"{path}: the record of run {run_id} cannot be read"
                    summary += " → move the folder away and run its night again"
                    alerts.append(
                        self._alert(f"damaged {run_id}", "damaged_record", pipeline, summary)
                    )
            elif not run.head.sweep:
                runs.append(run)
        return runs

    def _missing(self, spec: PipelineSpec, runs: list[RunRecord], now: dt.datetime) -> Alert | None:
        if not spec.schedule:
            return None
        by_schedule = any(run.head.trigger == "schedule" for run in runs)
        if not by_schedule and spec.pipeline not in self._expected:
            return None
        waited = dt.timedelta(minutes=self._patience.missing)
        due: dt.datetime = croniter(spec.schedule, now - waited).get_prev(dt.datetime)
        night = spec.newest_complete(due.replace(tzinfo=dt.UTC))
        if due.date() <= spec.start_date or any(run.date == night for run in runs):
            return None
        summary = (
            f"the night was due at {due:%Y-%m-%d %H:%M} UTC but no run of it has started → check "
            "that the scheduler and the DAG processor are running and that"
            f" nightly_{spec.pipeline} is switched on;"
            f" `nightbid run {spec.pipeline} --date {night}` runs it by hand"
        )
        return self._alert(f"missing {night}", "missing_night", spec.pipeline, summary, str(night))

    def _silent(self, run: RunRecord, now: dt.datetime, busy: bool) -> Iterator[Alert]:
        """Yield alerts for a run that has stalled or takes too long."""
        try:
            done = current(records.stage_records(run))
        except (CorruptDataError, ValueError) as error:
            summary = f"a record of run {run.run_id} cannot be read: {error}"
            yield self._alert(
                f"damaged {run.run_id}", "damaged_record", run.head.pipeline, summary, run=run
            )
            return
        if state_of(run.head, done)[0] != "running" or _waits_for_a_person(run, done, now):
            return
        if _waits_for_its_logs(run, done, now, self._patience.stalled):
            return
        sign, live = self._last_sign(run, now)
        if sign is None:
            if not live:
                yield self._unknown(run, now)
            return
        quiet = (now - sign).total_seconds() / 60
        last = max(done.values(), key=lambda record: record.started, default=None)
        after = f"after {last.stage}" if last else "before its first stage"
        allowed = QUEUED_MINUTES if busy else self._patience.stalled
        if not live and quiet > allowed:
            summary = (
                f"no progress for {counted(round(quiet), 'minute')}, {after} → check that the"
                f" scheduler and the triggerer are running; clear the task, or"
                f" `nightbid run {run.head.pipeline} --date {run.date} --run-id {run.run_id}`"
                " resumes there"
            )
            yield self._alert(
                f"stalled {run.run_id} {after}",
                "stalled_night",
                run.head.pipeline,
                summary,
                run=run,
            )
        hours = (now - run.head.started).total_seconds() / 3600
        if hours * 60 > self._patience.late:
            summary = f"the night started {hours:.1f} hours ago and has not finished, {after}"
            yield self._alert(
                f"late {run.run_id}", "late_night", run.head.pipeline, summary, run=run
            )

    def _unknown(self, run: RunRecord, now: dt.datetime) -> Alert:
        """Create an alert for a run whose times are all in the future."""
        hours = (run.head.started - now).total_seconds() / 3600
        summary = (
            f"the run started {hours:.1f} hours in the future: the machine's clock was set back, "
            "so the watch cannot tell whether the night is still running → check the run's page;"
            " synchronize the machines' clocks"
        )
        return self._alert(
            f"clock {run.run_id}", "stalled_night", run.head.pipeline, summary, run=run
        )

    def _last_sign(self, run: RunRecord, now: dt.datetime) -> tuple[dt.datetime | None, bool]:
        """Time of the run's last activity, and whether one of its stages or jobs is running now.

        Times in the future are ignored; the time is None if there are no others.
        """
        signs = [run.head.started]
        for record in records.stage_records(run):
            signs.append(record.started + dt.timedelta(seconds=record.seconds))
        live = bool(records.live_stages(run)) or _has_open_job(run, now, self._patience.stalled)
        for stage, attempt in run.usage_logs():
            sample = read_usage_log(run.folder / "usage" / f"{stage}.{attempt}.jsonl")
            if sample is not None:
                signs.append(sample.at)
        latest = now + dt.timedelta(seconds=SKEW_SECONDS)
        return max((sign for sign in signs if sign <= latest), default=None), live

    def _alert(
        self,
        key: str,
        kind: str,
        pipeline: str,
        summary: str,
        night: str = "",
        run: RunRecord | None = None,
    ) -> Alert:
        base = self._settings.pages
        page = (
            page_address(base, "runs", pipeline, run.run_id)
            if run is not None
            else page_address(base, "nights", pipeline)
        )
        message = AlertMessage(
            kind=kind,  # type: ignore[arg-type]
            pipeline=pipeline,
            summary=summary,
            night=night or (run.date.isoformat() if run else ""),
            run_id=run.run_id if run else "",
            page=page,
            serves=what_serves(self._workspace, pipeline),
        )
        return Alert(f"{pipeline} {key}", message)


def _has_open_job(run: RunRecord, now: dt.datetime, minutes: float) -> bool:
    """Whether the run has an open cloud job with a watcher that is still alive."""
    if not any(job.state == "open" for job in job_records(run)):
        return False
    try:
        beat = time_of((run.folder / HEARTBEAT).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return True  # Runs started in a shell have no heartbeat.
    return is_fresh(beat, 60 * minutes, now)


@functools.lru_cache(maxsize=1024)
def _pipeline(
    name: str, folder: Path, files: tuple[tuple[str, int, int], ...]
) -> PipelineSpec | str:
    """Read a pipeline, or return its error; cached per state of the folder's files."""
    try:
        return find_pipeline(name, folder)
    except ConfigError as error:
        return str(error)


def _files(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """State of all pipeline files: path, modification time, size."""
    states = []
    for path in sorted(folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            state = path.stat()
            states.append((str(path), state.st_mtime_ns, state.st_size))
    return tuple(states)


def _waits_for_a_person(run: RunRecord, done: dict[str, StageRecord], now: dt.datetime) -> bool:
    """Whether only the approval is missing, and its deadline has not passed."""
    spec = run.head.spec
    if not spec.get("approval") or APPROVE in done or "gate_cost" not in done:
        return False
    hours = float(str(spec.get("approval_hours") or 20))
    gate = done["gate_cost"]
    return is_fresh(gate.started, 3600 * (hours + 0.5), now)


def _waits_for_its_logs(
    run: RunRecord, done: dict[str, StageRecord], now: dt.datetime, minutes: float
) -> bool:
    """Whether the newest day of logs is missing, and a process still polls for it."""
    arrival = run.head.spec.get("arrival")
    if not isinstance(arrival, dict) or ARRIVAL in done:
        return False
    try:
        looked = (run.folder / WAITING).stat().st_mtime
    except FileNotFoundError:
        return False
    allowed = minutes * 60 + float(arrival.get("every_seconds") or 60)
    return is_fresh(dt.datetime.fromtimestamp(looked, dt.UTC), allowed, now)
