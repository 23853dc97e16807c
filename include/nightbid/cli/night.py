"""`nightbid run`: runs consecutive nights in this process, with progress bars."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime

from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from nightbid.cli.view import runs_table
from nightbid.config.pipeline import PipelineSpec
from nightbid.config.settings import Settings
from nightbid.counts import counted
from nightbid.errors import ConfigError, DataError, GateStopped, NightbidError
from nightbid.jobs.follow import wait_for_final_cost
from nightbid.night.record import RunRecord, run_name
from nightbid.night.stages import NIGHT
from nightbid.night.task import StageOutput
from nightbid.night.turns import Turns, watched_runs
from nightbid.partitions import STEPS
from nightbid.report.table import MARK, night_table, verdict_line
from nightbid.report.write import write_report
from nightbid.runner import run_stage
from nightbid.storage.workspace import Workspace
from nightbid.tracking.log import deliver, queue_run

TURN_SECONDS = 1.0
"""Seconds between two checks of whether another night has ended."""


class BarProgress:
    """Shows the progress of a stage as a bar."""

    def __init__(self, bars: Progress, bar: TaskID) -> None:
        self._bars, self._bar = bars, bar

    def __call__(self, done: float, message: str = "") -> None:
        """Move the bar to the share of the work that is done, from 0 to 1."""
        self._bars.update(self._bar, completed=done, detail=message)


def run_nights(
    spec: PipelineSpec,
    *,
    first: date,
    nights: int,
    settings: Settings,
    overrides: tuple[str, ...],
    run_id: str,
    until: str,
    console: Console,
    wait: bool = False,
) -> None:
    """Run consecutive nights.

    If the pipeline has an `arrival` block, the newest day of a night is checked first: once, or
    with `wait` until it is complete or its deadline has passed.

    If a gate stops a night, or its logs are missing or damaged, later nights still run; any other
    error ends the loop. After several nights, a table lists them.

    Raises:
        NightbidError: The night, or the first failed one of several, ended with this error. Its
            report is written anyway.
    """
    names = [stage.name for stage in NIGHT]
    if until and until not in names:
        raise ConfigError(
            f"no stage called {until!r}", where="--until", hint=f"stages: {', '.join(names)}"
        )
    if run_id and nights > 1:
        raise ConfigError(
            f"one --run-id ({run_id!r}) cannot name {nights} nights",
            where="--run-id",
            hint="leave it out, or run one night",
        )
    workspace = Workspace(settings.workspace)
    runs: list[RunRecord] = []
    ended: list[NightbidError] = []
    try:
        for offset in range(nights):
            night = spec.partition_at(first) + offset * STEPS[spec.partition]
            with _alone(workspace, spec.pipeline, run_name(spec, night, run_id), console):
                run = RunRecord.start(
                    workspace, spec, night, run_id=run_id, overrides=overrides, until=until
                )
                runs.append(run)
                if console.is_terminal:
                    console.rule(Text(run.run_id, "bold"))
                else:
                    console.print(f"── {run.run_id}", markup=False, highlight=False)
                try:
                    going, run = _arrived(spec, run, settings, console, wait=wait)
                    # Not earlier: a night that waits for its logs must not block other nights.
                    with _turn(workspace, spec.pipeline, run.run_id, night, console) as keep:
                        _run_night(going, run, settings, until, console, keep)
                except BaseException as error:
                    try:
                        _conclude(run, settings, console)
                    except (NightbidError, OSError, ValidationError) as second:
                        # The error that ended the night is more important.
                        console.print(f"no report: {second}", markup=False, soft_wrap=True)
                    if nights == 1 or not isinstance(error, (GateStopped, DataError)):
                        raise
                    ended.append(error)
                    console.print(str(error), style="red", markup=False, soft_wrap=True)
                else:
                    _conclude(run, settings, console)
                    _hint(run, console)
    finally:
        if len(runs) > 1:
            console.print(runs_table(runs))
        # Once for all nights, because MLflow takes seconds to start.
        if message := str(deliver(workspace, settings)):
            console.print(message, soft_wrap=True, highlight=False, markup=False)
    if ended:
        raise type(ended[0])(
            f"{len(ended)} of {counted(nights, 'night')} did not finish; the first: {ended[0]}",
            where=spec.pipeline,
        )


@contextmanager
def _alone(workspace: Workspace, pipeline: str, run_id: str, console: Console) -> Iterator[None]:
    """Lock the run, so that no other process works on it, perhaps with a different YAML."""
    is_said = False

    def wait() -> None:
        nonlocal is_said
        if not is_said:
            is_said = True
            console.print(
                f"run {run_id} is running in another process: waiting until it ends → to run in "
                "parallel, use another --run-id",
                markup=False, highlight=False, soft_wrap=True,
            )  # fmt: skip
        time.sleep(TURN_SECONDS)

    with Turns(workspace, pipeline).alone(run_id, wait):
        yield


@contextmanager
def _turn(
    workspace: Workspace, pipeline: str, run_id: str, night: date, console: Console
) -> Iterator[Callable[[], None]]:
    """Wait until no other night of the pipeline is running, and make others wait meanwhile.

    Yields:
        A function that takes the turn again if another night took it while this process was
        suspended.
    """
    turns = Turns(workspace, pipeline)
    announced = ""

    def take() -> None:
        nonlocal announced
        while other := turns.take(run_id, night, watched_runs(workspace, pipeline)):
            if other != announced:
                announced = other
                console.print(
                    f"one night of a pipeline at a time: {run_id} waits until run {other} has ended"
                    " → to continue now, end that run",
                    markup=False, highlight=False, soft_wrap=True,
                )  # fmt: skip
            time.sleep(TURN_SECONDS)

    def keep() -> None:
        if not turns.has(run_id):
            take()

    with turns.held(run_id):
        take()
        yield keep


def _conclude(run: RunRecord, settings: Settings, console: Console) -> None:
    """Show the night's table and verdict, write its report and queue it for tracking."""
    with console.status("waiting for the final costs of the night's jobs"):
        wait_for_final_cost(run)
    if run.records():
        console.print(night_table(run))
        console.print(verdict_line(run))
        console.print(f"report: {write_report(run)}", soft_wrap=True, highlight=False)
        if (untracked := queue_run(run, settings)) is not None and str(untracked):
            console.print(str(untracked), soft_wrap=True, highlight=False, markup=False)


def _hint(run: RunRecord, console: Console) -> None:
    """Print the command that usually comes next."""
    pipeline = run.head.pipeline
    promoted = run.stage("promote")
    if promoted is None:
        return
    steps = [f"nightbid compare {pipeline} {run.run_id} OTHER_RUN"]
    if "promoted as champion" in promoted.summary:
        steps.insert(0, f"nightbid serve {pipeline}")
    else:
        steps.insert(0, f"nightbid gates show {pipeline} {run.run_id}")
    console.print(f"next: {' · '.join(steps)}", markup=False, highlight=False, soft_wrap=True)


def _arrived(
    spec: PipelineSpec, run: RunRecord, settings: Settings, console: Console, *, wait: bool
) -> tuple[PipelineSpec, RunRecord]:
    """Check whether the newest day of the night is complete, and print the result.

    Raises:
        MissingDataError: The newest day is not complete.
    """
    if spec.arrival is None or spec.sampling.frozen:
        return spec, run
    from nightbid.arrival import wait as arrival

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    started = datetime.now(UTC)
    day_state = (
        arrival.wait(spec, run, settings.cache, say)
        if wait
        else arrival.look(spec, run, settings.cache, started)
    )
    spec, message = arrival.conclude(
        spec, run, settings.cache, day_state, now=datetime.now(UTC), started=started
    )
    say(f"✓ arrival: {message}")
    return spec, RunRecord.load(run.workspace, run.head.pipeline, run.run_id)


def _run_night(
    spec: PipelineSpec,
    run: RunRecord,
    settings: Settings,
    until: str,
    console: Console,
    keep: Callable[[], None],
) -> None:
    columns = (
        TextColumn("{task.description:<15}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("{task.fields[detail]}", markup=False),  # values of the logs,
    )
    for stage in NIGHT:
        keep()
        started = time.monotonic()
        with Progress(*columns, console=console, transient=True) as bars:
            bar = bars.add_task(stage.name, total=1.0, detail="")
            try:
                result = run_stage(
                    stage,
                    spec,
                    run,
                    cache_folder=settings.cache,
                    attempt=run.next_attempt(stage.name),
                    progress=BarProgress(bars, bar),
                )
            except NightbidError:
                console.print(Text.assemble(("✗", "red"), f" {stage.name}"))
                raise
        console.print(_line(stage.name, result, time.monotonic() - started))
        if stage.name == until:
            return


def _line(name: str, result: StageOutput, seconds: float) -> Text:
    rows = result.manifest.rows
    parts = [Text.assemble(("✓", "green"), f" {name:<15} {seconds:6.1f} s")]
    if result.reused:
        parts.append(MARK["reused"])
    if result.manifest.verdict:
        parts.append(MARK[result.manifest.verdict])
    if rows.read:
        parts.append(Text(f"{counted(rows.read, 'row')} in, {rows.written:,} out"))
    if rows.quarantined:
        parts.append(Text(f"{rows.quarantined:,} quarantined", "yellow"))
    if result.manifest.summary:
        parts.append(Text(result.manifest.summary))
    return Text("  ").join(parts)
