"""The record of one run: its settings and the results of its stages, written while it runs.

There is one small file per stage and attempt, so that parallel stages never write the same one.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
import re
from collections.abc import Mapping
from typing import Literal

from upath import UPath

from nightbid.config.pipeline import PipelineSpec
from nightbid.errors import ConfigError, CorruptDataError, StageError
from nightbid.night.attempts import REQUEST, StageRecord, current, order
from nightbid.night.head import GONE, RunHead, newest_head, write_head
from nightbid.night.sealed import seal, unseal
from nightbid.storage.files import read_all, write_once
from nightbid.storage.workspace import Workspace

log = logging.getLogger(__name__)
HISTORY_NIGHTS = 28
LONGEST_NAME = 120
HEARTBEAT = "heartbeat"
"""File that Airflow's triggerer renews while it watches the run; holds a time, ISO 8601."""
LAG = "window.lag_"
"""Prefix of the setting with which a run continues with an older newest day."""
WAITING = "waiting.txt"
"""File of a run that waits for its logs; holds what is missing, renewed at each poll."""


def state_of(
    head: RunHead, newest: Mapping[str, StageRecord]
) -> tuple[Literal["done", "stopped", "failed", "running"], str]:
    """Return the state of a run, and the stage that ended it early, if any.

    Args:
        head: Settings of the run.
        newest: Stage → its current record, see `current`; if several failed, the first one decides.
    """
    for record in newest.values():
        if record.state != "done":
            return record.state, record.stage
    last = head.until or ("train" if head.sweep else "promote")
    return ("done" if last in newest else "running"), ""


class RunRecord:
    """Reads and writes the records of one run."""

    def __init__(self, workspace: Workspace, head: RunHead) -> None:
        self.workspace = workspace
        self.head = head
        self.folder: UPath = workspace.run_folder(head.pipeline, head.run_id)

    @property
    def run_id(self) -> str:
        """Name of the run, safe as a file name."""
        return self.head.run_id

    @property
    def date(self) -> dt.date:
        """Newest day of logs."""
        return self.head.date

    @classmethod
    def start(
        cls,
        workspace: Workspace,
        spec: PipelineSpec,
        newest: dt.date,
        *,
        run_id: str = "",
        overrides: tuple[str, ...] = (),
        trigger: str = "shell",
        sweep: str = "",
        until: str = "",
        code: Mapping[str, str] | None = None,
    ) -> RunRecord:
        """Start a run, or restart the one with the same id, whose finished stages are reused.

        The default id is `<pipeline>-<date>`, so running a night again reuses finished stages.
        """
        newest = spec.partition_at(newest)
        name = run_name(spec, newest, run_id)
        folder = workspace.run_folder(spec.pipeline, name)
        head = RunHead(
            pipeline=spec.pipeline,
            run_id=name,
            date=newest,
            overrides=overrides,
            trigger=trigger,
            sweep=sweep,
            until=until,
            started=dt.datetime.now(dt.UTC),
            spec=spec.model_dump(mode="json"),
            number=len(_names(folder.parent)) + 1,
            code=dict(code or {}),
        )
        existing = newest_head(folder)
        if existing is None:
            return cls(workspace, write_head(folder, head, None))
        if existing.date != newest:
            raise ConfigError(
                f"run {name!r} is of {existing.date}, not of {newest}",
                where=str(folder),
                hint="use another --run-id",
            )
        first_start = {"started": existing.started, "number": existing.number}
        resumed = head.model_copy(update=first_start)
        taken_up = cls(workspace, write_head(folder, resumed, existing))
        taken_up.accept()
        return taken_up

    @classmethod
    def refused(
        cls,
        workspace: Workspace,
        pipeline: str,
        newest: dt.date,
        error: str,
        *,
        run_id: str,
        overrides: tuple[str, ...] = (),
        trigger: str = "shell",
    ) -> RunRecord:
        """Record a request that cannot be run, so that pages show it.

        A later request with the same run id and valid settings is accepted by `start`.

        Args:
            workspace: Workspace to record the run in.
            pipeline: Name of the pipeline.
            newest: Requested newest day of logs.
            error: What is wrong with the request, in one line.
            run_id: Name of the run.
            overrides: Requested settings.
            trigger: Origin of the request: `shell` or `airflow`.
        """
        name = safe_run_id(run_id)
        now = dt.datetime.now(dt.UTC)
        folder = workspace.run_folder(pipeline, name)
        head = newest_head(folder)
        if head is None:
            head = RunHead(
                pipeline=pipeline,
                run_id=name,
                date=newest,
                overrides=overrides,
                trigger=trigger,
                started=now,
                spec={},
                number=len(_names(folder.parent)) + 1,
            )
            head = write_head(folder, head, None)
        run = cls(workspace, head)
        run.record(StageRecord(stage=REQUEST, state="failed", started=now, seconds=0, error=error))
        return run

    def pin(
        self, spec: PipelineSpec, code: Mapping[str, str], overrides: tuple[str, ...] | None = None
    ) -> RunRecord:
        """Use other settings and other code from now on.

        Args:
            spec: New settings.
            code: Stage → digest of its code.
            overrides: Settings that were overridden for this run; None: unchanged.
        """
        changes: dict[str, object] = {"spec": spec.model_dump(mode="json"), "code": dict(code)}
        if overrides is not None:
            changes["overrides"] = overrides
        head = self.head.model_copy(update=changes)
        return RunRecord(self.workspace, write_head(self.folder, head, self.head))

    def check_is_ours(self) -> None:
        """Check that no other process has resumed this run with other settings.

        Raises:
            StageError: Another process has, while this one was stalled.
        """
        newest = RunRecord.load(self.workspace, self.head.pipeline, self.run_id)
        if newest.head.revision > self.head.revision:
            raise StageError(
                "another process took over this run with other settings while this one was"
                " suspended",
                where=self.run_id,
                hint=f"nothing is lost: see `nightbid runs {self.head.pipeline}` for its results",
            )

    def accept(self) -> None:
        """Record that a request that was rejected before is valid now."""
        refusal = self.stage(REQUEST)
        if refusal is not None and refusal.state == "failed":
            now = dt.datetime.now(dt.UTC)
            self.record(
                StageRecord(stage=REQUEST, state="done", started=now, seconds=0, summary="accepted")
            )

    @classmethod
    def load(cls, workspace: Workspace, pipeline: str, run_id: str) -> RunRecord:
        """Open the record of a run that was started."""
        path = workspace.run_folder(pipeline, run_id) / "run.json"
        if not path.exists():
            raise ConfigError(
                f"no run {run_id!r} of pipeline {pipeline!r}",
                where=str(workspace.root),
                hint=f"list the runs with `nightbid runs {pipeline}`",
            )
        return cls(workspace, unseal(RunHead, path.read_bytes(), path, GONE))

    def record(self, record: StageRecord) -> None:
        """Add the record of an attempt."""
        folder = self.folder / "stages"
        under = {"revision": self.head.revision}
        number = max(map(_number, _names(folder)), default=0) + 1
        while True:
            # The number is taken exclusively, so the order of records does not depend on a clock.
            path = folder / f"{record.stage}.{number:06d}.json"
            try:
                write_once(path, seal(record.model_copy(update={**under, "number": number})))
            except FileExistsError:
                number += 1
            else:
                return

    def records(self, stage: str = "") -> list[StageRecord]:
        """All attempts, oldest first.

        Args:
            stage: Stage to list; empty: all stages.
        """
        folder = self.folder / "stages"
        records = [
            unseal(StageRecord, text, folder / name, "delete this record and rerun the night")
            for name, text in read_all(folder, ".json").items()
            if not stage or name.startswith(f"{stage}.")
        ]
        return sorted(records, key=order)

    def current(self) -> dict[str, StageRecord]:
        """Stage → its current record; see `nightbid.night.attempts.current`."""
        return current(self.records())

    def stage(self, name: str) -> StageRecord | None:
        """Current record of a stage; None if it has not run on the current inputs."""
        return self.current().get(name)

    def newest(self, stage: str) -> StageRecord | None:
        """Newest attempt at a stage, even if its inputs were rebuilt since."""
        records = self.records(stage)
        return records[-1] if records else None

    def next_attempt(self, stage: str) -> int:
        """Number of the next attempt at a stage, from 1; every attempt that started counts."""
        return max((number for name, number in self.usage_logs() if name == stage), default=0) + 1

    def usage_file(self, stage: str, attempt: int) -> UPath:
        """File in which a running stage records its usage, for the cost sensor."""
        folder = self.folder / "usage"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{stage}.{attempt}.jsonl"

    def usage_logs(self) -> list[tuple[str, int]]:
        """Stage and number of every attempt that recorded its usage."""
        folder = self.folder / "usage"
        parts = [name.removesuffix(".jsonl").rpartition(".") for name in _names(folder)
                 if name.endswith(".jsonl")]  # fmt: skip
        return sorted((stage, int(number)) for stage, _, number in parts if number.isdigit())

    def history(self, stage: str) -> list[str]:
        """Addresses of a stage's outputs on earlier nights, see `nightbid.night.record.history`."""
        return history(self.workspace, self.head.pipeline, self.date, stage)


def _number(name: str) -> int:
    """Number in a record's file name; 0 for older versions, whose names have a time."""
    number = name.removesuffix(".json").rpartition(".")[2]
    return int(number) if number.isdigit() else 0


def _names(folder: UPath) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.exists() else []


def history(workspace: Workspace, pipeline: str, before: dt.date, stage: str) -> list[str]:
    """Addresses of a stage's finished outputs on earlier nights, oldest first, one per night."""
    by_night: dict[dt.date, str] = {}
    for other in runs_of(workspace, pipeline):
        if other.date >= before:
            continue
        try:
            record = other.stage(stage)
        except CorruptDataError as error:
            log.warning("a run is left out of the history: %s", error)
            continue
        if record and record.state == "done" and record.uri:
            by_night[other.date] = record.uri
    return [by_night[night] for night in sorted(by_night)][-HISTORY_NIGHTS:]


def runs_of(workspace: Workspace, pipeline: str) -> list[RunRecord]:
    """All nights of a pipeline in the order of their start, without trials of sweeps."""
    folder = workspace.root / "runs" / pipeline
    if not folder.exists():
        return []
    runs = []
    try:
        paths = list(folder.iterdir())
    except NotADirectoryError:
        return []  # a stray file among the pipelines
    for path in paths:
        if not (path / "run.json").exists():
            continue
        try:
            runs.append(RunRecord.load(workspace, pipeline, path.name))
        except CorruptDataError as error:
            log.warning("a run is left out: %s", error)
    nights = (run for run in runs if not run.head.sweep)
    return sorted(nights, key=lambda run: (run.head.number, run.head.started, run.run_id))


def run_name(spec: PipelineSpec, night: dt.date, run_id: str = "") -> str:
    """Name of a run as a file name: the requested id, else `<pipeline>-<date>`."""
    return safe_run_id(run_id or f"{spec.pipeline}-{night.isoformat()}")


def safe_run_id(text: str) -> str:
    """Convert a run id (Airflow's contain colons and pluses) to a file name.

    Names are unique: an id with unsupported characters, or a long one, gets a digest appended.

    Raises:
        ConfigError: The id is empty, or begins with a dot.
    """
    if not text or text.startswith("."):
        raise ConfigError(
            f"{text!r} is not a valid run id",
            where="run id",
            hint="start with a letter or a digit; then use letters, digits, `.`, `_` and `-`",
        )
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text)
    if re.fullmatch(r"[A-Za-z0-9._:+-]+", text) and len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{name[: LONGEST_NAME - 9]}-{digest}"
