"""Runs consecutive nights through Airflow and shows their stages in the terminal."""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nightbid.config.pipeline import Night, PipelineSpec
from nightbid.config.settings import Settings
from nightbid.config.sources import SimulatorSource
from nightbid.counts import counted
from nightbid.data.source import open_source
from nightbid.errors import MissingDataError, StageError
from nightbid.night.record import RunRecord, safe_run_id
from nightbid.night.stages import NIGHT
from nightbid.partitions import STEPS
from nightbid.report.table import night_table, verdict_line
from nightbid.report.write import write_report
from nightbid.storage.workspace import Workspace
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from nightbid_airflow.embedded.client import ENDED, Task
from nightbid_airflow.embedded.services import Airflow

LOOK_SECONDS = 1.0
ORDER = {stage.name: at for at, stage in enumerate(NIGHT)}
VERDICT = {"pass": "[green]pass[/] ", "warn": "[yellow]warn[/] ", "stop": "[red]stop[/] "}


def default_first(spec: PipelineSpec, nights: int, cache: Path) -> dt.date:
    """Choose the first of several nights so that the last one is the newest with logs.

    The simulator has logs for any day; there it is the first night with a complete window.

    Raises:
        DataError: There are too few days of logs.
    """
    window, step = Night.of(spec, dt.date(2000, 1, 3)), STEPS[spec.partition]
    oldest = (window.days("train") + window.days("validate") + window.days("evaluate"))[0]
    reach = window.date - oldest
    if isinstance(spec.source, SimulatorSource):
        return spec.first_partition(spec.source.start) + reach
    days = open_source(spec.source, cache).days()
    if not days or days[-1] - (nights - 1) * step - reach < days[0]:
        raise MissingDataError(
            f"{counted(nights, 'night needs', 'nights need')}"
            f" {counted(reach // step + nights, spec.partition)} of logs; available:"
            f" {len(days or ())}",
            where=f"source of {spec.pipeline}",
            hint="shorten the window, or run fewer nights",
        )
    return days[-1] - (nights - 1) * step


@dataclass(frozen=True)
class NightRun:
    """One night as a DAG run."""

    airflow: Airflow
    spec: PipelineSpec
    date: dt.date
    overrides: tuple[str, ...]

    @property
    def dag(self) -> str:
        """Id of the pipeline's nightly DAG."""
        return f"nightly_{self.spec.pipeline}"

    @property
    def run_id(self) -> str:
        """Run id, the same as on the command line: nights with other settings are other runs."""
        return safe_run_id("-".join([self.spec.pipeline, str(self.date), *self.overrides]))

    def begin(self) -> None:
        """Trigger the run, or clear the finished run of the same night; it reuses its stages."""
        client = self.airflow.client
        state = client.run_state(self.dag, self.run_id)
        if state is None:
            conf = {"date": self.date.isoformat(), "overrides": list(self.overrides)}
            client.trigger(self.dag, self.run_id, conf)
        elif state in ENDED:
            client.run_again(self.dag, self.run_id)

    def looks(self) -> Iterator[list[Task]]:
        """Poll the tasks of the run until it has ended."""
        client = self.airflow.client
        while True:
            self.airflow.check()
            # Get the run's state first, so that the tasks read after the end are final.
            state = client.run_state(self.dag, self.run_id)
            yield sorted(
                client.tasks(self.dag, self.run_id), key=lambda task: ORDER.get(task.name, 99)
            )
            if state in ENDED:
                return
            time.sleep(LOOK_SECONDS)

    def record(self, workspace: Workspace) -> RunRecord:
        """Load the record that the stages wrote for this run."""
        return RunRecord.load(workspace, self.spec.pipeline, self.run_id)

    def log(self, task: Task) -> Path:
        """Get the path of the log of a task's newest attempt."""
        return (
            self.airflow.home.logs
            / f"dag_id={self.dag}"
            / f"run_id={self.run_id}"
            / f"task_id={task.name}"
            / f"attempt={task.attempt}.log"
        )

    def said(self, task: Task) -> str:
        """Get the newest progress line of a running task."""
        for line in reversed(_events(self.log(task))):
            if line.get("logger") == f"nightbid.{task.name}":
                return str(line.get("event", ""))
        return ""

    def reason(self, task: Task) -> str:
        """Get a line that says why a task failed."""
        for line in reversed(_events(self.log(task))):
            details = line.get("error_detail") or []
            if isinstance(details, list) and details and isinstance(details[0], dict):
                return str(details[0].get("exc_value", ""))
        return f"task {task.name} {task.state}: see {self.log(task)}"


def _events(log: Path) -> list[dict[str, object]]:
    """Read the newest lines of a task log (JSON, one event per line)."""
    try:
        with log.open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - 65536))
            lines = stream.read().split(b"\n")
    except OSError:
        return []
    events = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            events.append(event)
    return events


def run_nights(
    airflow: Airflow,
    spec: PipelineSpec,
    *,
    first: dt.date,
    nights: int,
    overrides: tuple[str, ...],
    settings: Settings,
    console: Console,
) -> None:
    """Run consecutive nights; the first failure ends the loop.

    Raises:
        StageError: A night failed with this error; its report is written anyway.
    """
    workspace = Workspace(settings.workspace)
    for offset in range(nights):
        night = NightRun(airflow, spec, first + offset * STEPS[spec.partition], overrides)
        console.rule(f"[bold]{escape(night.run_id)}[/]")
        night.begin()
        failed = _follow(night, workspace, console)
        run = night.record(workspace) if _has_record(night, workspace) else None
        if run and run.records():
            console.print(night_table(run))
            console.print(verdict_line(run))
            console.print(f"report: {write_report(run)}", soft_wrap=True, highlight=False)
        if failed is not None:
            raise StageError(night.reason(failed))


def _has_record(night: NightRun, workspace: Workspace) -> bool:
    return (workspace.run_folder(night.spec.pipeline, night.run_id) / "run.json").exists()


def _follow(night: NightRun, workspace: Workspace, console: Console) -> Task | None:
    """Show a night until it ends; returns the task that failed first, if one did."""
    shown: set[tuple[str, int]] = set()
    began: dict[str, float] = {}
    failed: Task | None = None
    with Live(console=console, transient=True, refresh_per_second=4) as live:
        for tasks in night.looks():
            for task in tasks:
                if task.state in ENDED and (task.name, task.attempt) not in shown:
                    shown.add((task.name, task.attempt))
                    live.console.print(_line(night, task, workspace), highlight=False)
                    if task.state == "failed" and failed is None:
                        failed = task
                elif task.state == "running":
                    began.setdefault(task.name, time.monotonic())
            live.update(_running(night, tasks, began.get))
    return failed


def _line(night: NightRun, task: Task, workspace: Workspace) -> str:
    if task.state not in ("failed", "success"):
        return f"[dim]· {task.name:<15} {task.state.replace('_', ' '):>8}[/]"
    seconds = f"{task.seconds or 0:6.1f} s"
    if task.state == "failed":
        return f"[red]✗[/] {task.name:<15} {seconds}  {escape(night.reason(task))}"
    record = night.record(workspace).stage(task.name) if task.name in ORDER else None
    summary = "" if record is None else escape(record.summary)
    if record and record.verdict:
        summary = VERDICT[record.verdict] + summary
    if record and record.reused:
        summary = f"[cyan]reused[/] {summary}"
    return f"[green]✓[/] {task.name:<15} {seconds}  {summary}"


def _running(night: NightRun, tasks: list[Task], began: Callable[[str], float | None]) -> Table:
    table = Table.grid(padding=(0, 1))
    for task in tasks:
        if task.state in ENDED or task.state == "none":
            continue
        since = began(task.name)
        seconds = f"{time.monotonic() - since:6.1f} s" if since is not None else " " * 8
        note = night.said(task) if task.state == "running" else task.state.replace("_", " ")
        table.add_row("…", f"{task.name:<15}", seconds, escape(note))
    return table
