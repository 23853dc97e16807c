"""Running one stage: find its inputs, reuse or compute, meter, commit, record.

A stage is a plain function ``run(task) -> Outcome`` that reads ``task.inputs`` and writes
into ``task.output``, an empty folder. What is around it is here, and is the same for all:

- The *key* is the digest of the inputs' digests, of the part of the spec that the stage reads,
  of its source code and of the library versions. An output with the same key is reused.
- The output is written under a temporary name, its manifest last, and renamed in one step. A
  killed stage leaves nothing that a later one can mistake for a result.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from upath import UPath

import nightbid
from nightbid.config.pipeline import Night, PipelineSpec
from nightbid.cost.ledger import MACHINE, record_stage_usage
from nightbid.cost.meter import ProcessMeter
from nightbid.cost.watch import Breaker, limits_of, recover_trails
from nightbid.errors import (
    GateStopped,
    NightbidError,
    StageError,
    TrialPruned,
    WorkspaceError,
)
from nightbid.manifest import FileEntry, Manifest, Rows, Usage, Verdict
from nightbid.progress import EpochWatcher, Progress, silent, unwatched
from nightbid.runs import RunRecord, StageRecord
from nightbid.workspace import Workspace, fetch, file_digest

LIBRARIES = ("apache-beam", "great-expectations", "keras", "numpy", "pyarrow", "tensorflow")
"""Their versions are part of every key: an upgraded library computes anew."""


@dataclass(frozen=True)
class StageInput:
    """The finished output of an earlier stage."""

    manifest: Manifest
    folder: UPath

    @property
    def path(self) -> Path:
        """The output as a folder of this machine (TensorFlow and Beam read local files)."""
        return fetch(self.folder)


@dataclass(frozen=True)
class Outcome:
    """What a stage function returns; its files lie in `task.output`."""

    rows: Rows = field(default_factory=Rows)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """JSON values, small: what pages, gates and experiment tracking show."""
    summary: str = ""
    verdict: Verdict | None = None
    usage: Usage = field(default_factory=Usage)
    """Consumed elsewhere (Dataflow workers); what this machine used is metered around it."""
    volatile: tuple[str, ...] = ()
    """Relative paths or folders (ending in /) whose bytes differ between equal runs."""


@dataclass(frozen=True)
class StageTask:
    """All that a stage function gets."""

    spec: PipelineSpec
    night: Night
    run_id: str
    inputs: Mapping[str, StageInput]
    """By stage name. `champion` is there if the stage asks for it and there is one."""
    history: tuple[StageInput, ...]
    """Outputs of the `history_of` stage on earlier nights, oldest first."""
    output: Path
    """A new, empty folder of this machine."""
    workspace: Workspace
    cache: Path
    """Downloads and derived files that are safe to delete."""
    progress: Progress = silent
    checkpoints: Path | None = None
    """What a killed attempt left of this very key, and the next may take up; gone when it ends."""
    watch: EpochWatcher = unwatched
    """Told by trainings how good they are after each epoch; may end them."""


StageFunction = Callable[[StageTask], Outcome]


@dataclass(frozen=True)
class Stage:
    """One step of a night. Holds names only, so that declaring a night imports nothing heavy."""

    name: str
    function: str
    """`package.module:function`, imported when the stage runs."""
    inputs: tuple[str, ...]
    spec_keys: tuple[str, ...]
    """Top-level keys of the pipeline YAML that change its output."""
    rooms: tuple[str, ...]
    """Packages of nightbid whose source changes its output."""
    uses_champion: bool = False
    champion_when: str = ""
    """Dotted key of a setting; unless it is true, the champion is left out after all."""
    history_of: str | None = None
    is_gate: bool = False
    fingerprint: str = ""
    """`package.module:function(spec, night, cache) -> str` for a stage that reads what no manifest
    describes: when that changes, so does its key."""
    uses_run: bool = False
    """Output depends on the run itself (its costs, its id): reused only within the run."""

    def wants_champion(self, spec: PipelineSpec) -> bool:
        """Whether the champion is an input."""
        found: Any = spec
        for part in filter(None, self.champion_when.split(".")):
            found = getattr(found, part)
        return self.uses_champion and bool(found)

    def load(self) -> StageFunction:
        """Import the function."""
        function: StageFunction = _named(self.function)
        return function

    def outside(self, spec: PipelineSpec, night: Night, cache_folder: Path) -> str:
        """Fingerprint of what the stage reads from outside the workspace."""
        return str(_named(self.fingerprint)(spec, night, cache_folder)) if self.fingerprint else ""


def _named(path: str) -> Callable[..., Any]:
    module, _, name = path.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


@dataclass(frozen=True)
class StageResult:
    """Where a stage's output lies, and whether it was there before."""

    manifest: Manifest
    uri: str
    reused: bool


def run_stage(
    stage: Stage,
    spec: PipelineSpec,
    run: RunRecord,
    *,
    cache_folder: Path,
    attempt: int = 1,
    progress: Progress = silent,
    watch: EpochWatcher = unwatched,
) -> StageResult:
    """Run one stage of a run, or reuse its output.

    Args:
        stage: which.
        spec: the pipeline, overrides applied.
        run: the run's record: earlier stages are looked up there, this one is added.
        cache_folder: for downloads and derived files.
        attempt: 1 for the first try; retries cost money too and are recorded each.
        progress: told how far the stage is.
        watch: told how good a training is after each epoch; what it raises ends the stage.

    Raises:
        GateStopped: the stage is a gate and its verdict is stop; its output is committed.
        NightbidError: anything else that a user can act upon; no output is left.
    """
    workspace = run.workspace
    night = Night.of(spec, run.date)
    inputs = {name: _input_of(run, name) for name in stage.inputs}
    if stage.wants_champion(spec) and (champion := run.pinned_champion()) is not None:
        inputs["champion"] = _read(workspace, champion.bundle_uri)
    history: tuple[StageInput, ...] = ()
    if stage.history_of:
        uris = run.history(stage.history_of)
        history = tuple(_read(workspace, uri) for uri in uris)
    parts = spec.model_dump(mode="json", include=set(stage.spec_keys))
    spec_digest = _digest(parts)
    code_digest = source_digest(("config", "schema", *stage.rooms))
    versions = library_versions()
    key = _digest(
        {
            "stage": stage.name,
            "night": night.model_dump(mode="json"),
            "inputs": {name: each.manifest.digest for name, each in inputs.items()},
            "history": [each.manifest.digest for each in history],
            "run": run.run_id if stage.uses_run else "",
            "outside": stage.outside(spec, night, cache_folder),
            "spec": spec_digest,
            "code": code_digest,
            "versions": versions,
            "seed": spec.seed,
        }
    )
    final = workspace.stage_folder(spec.pipeline, stage.name, key)
    started = datetime.now(UTC)
    if (final / "manifest.json").exists():
        found = _read(workspace, workspace.uri(final)).manifest
        result = StageResult(found, workspace.uri(final), reused=True)
        _record(run, stage, result, attempt, started, 0.0)
        _stop_if_told(stage, result)
        return result
    # What a killed attempt spent is in its trail: it counts too.
    recover_trails(run)
    if run.usage_file(stage.name, attempt).exists():
        attempt = run.next_attempt(stage.name)
    limits = limits_of(
        spec.budget,
        workspace,
        pipeline=spec.pipeline,
        run_id=run.run_id,
        stage=stage.name,
        attempt=attempt,
        at=started,
    )
    breaker = Breaker(limits, started, warn_at=spec.budget.warn_at)
    breaker.check_before()
    scratch = workspace.scratch(final)
    checkpoints = workspace.checkpoint_folder(spec.pipeline, stage.name, key)
    workspace.forget_checkpoints(checkpoints)
    clock = time.monotonic()
    meter = ProcessMeter(run.usage_file(stage.name, attempt), judge=breaker)
    try:
        with meter:
            task = StageTask(
                spec=spec,
                night=night,
                run_id=run.run_id,
                inputs=inputs,
                history=history,
                output=Path(str(scratch)),
                workspace=workspace,
                cache=cache_folder,
                progress=meter.follow(progress),
                checkpoints=Path(str(checkpoints)),
                watch=watch,
            )
            outcome = stage.load()(task)
            files = _inventory(Path(str(scratch)), outcome.volatile)
        manifest = Manifest(
            pipeline=spec.pipeline,
            run_id=run.run_id,
            stage=stage.name,
            night=run.date.isoformat(),
            key=key,
            digest=_digest([[each.path, each.digest] for each in files if each.digest]),
            inputs={name: each.manifest.digest for name, each in inputs.items()},
            spec_digest=spec_digest,
            code_digest=code_digest,
            versions=versions,
            seed=spec.seed,
            rows=outcome.rows,
            usage=meter.usage + outcome.usage,
            metrics=dict(outcome.metrics),
            verdict=outcome.verdict,
            summary=outcome.summary,
            files=files,
            created=datetime.now(UTC),
        )
        (scratch / "manifest.json").write_text(manifest.model_dump_json(indent=1))
        workspace.commit(scratch, final)
        workspace.discard(checkpoints)
    except BaseException as error:
        meter.close()
        workspace.discard(scratch)
        if isinstance(error, TrialPruned):
            workspace.discard(checkpoints)
        run.record(
            StageRecord(
                stage=stage.name,
                attempt=attempt,
                state="failed",
                started=started,
                seconds=time.monotonic() - clock,
                usage=meter.usage,
                error=str(error) or type(error).__name__,
            )
        )
        try:
            _enter_cost(run, stage, attempt, meter.usage, started, "failed")
        except NightbidError as second:
            # The failure itself matters more; the trail holds the usage for the next attempt.
            logging.getLogger(__name__).warning("cost not entered: %s", second)
        if isinstance(error, (NightbidError, KeyboardInterrupt, SystemExit)):
            raise
        raise StageError(
            f"{type(error).__name__}: {error}",
            where=f"stage {stage.name} of {run.run_id}",
            hint="see the traceback above; nothing was written, a rerun is safe",
        ) from error
    result = StageResult(manifest, workspace.uri(final), reused=False)
    _record(run, stage, result, attempt, started, time.monotonic() - clock)
    _enter_cost(run, stage, attempt, meter.usage, started, "done")
    if outcome.usage != Usage():
        _enter_cost(run, stage, attempt, outcome.usage, started, "done", "dataflow_batch")
    _stop_if_told(stage, result)
    return result


def _enter_cost(
    run: RunRecord,
    stage: Stage,
    attempt: int,
    usage: Usage,
    started: datetime,
    state: str,
    service: str = MACHINE,
) -> None:
    record_stage_usage(
        run.workspace,
        pipeline=run.head.pipeline,
        run_id=run.run_id,
        stage=stage.name,
        attempt=attempt,
        usage=usage,
        started=started,
        state=state,
        service=service,
    )


def _stop_if_told(stage: Stage, result: StageResult) -> None:
    if result.manifest.verdict == "stop":
        raise GateStopped(
            result.manifest.summary,
            where=stage.name,
            hint=f"full result in {result.uri}",
        )


def _record(
    run: RunRecord,
    stage: Stage,
    result: StageResult,
    attempt: int,
    started: datetime,
    seconds: float,
) -> None:
    manifest = result.manifest
    run.record(
        StageRecord(
            stage=stage.name,
            attempt=attempt,
            state="stopped" if manifest.verdict == "stop" else "done",
            uri=result.uri,
            reused=result.reused,
            started=started,
            seconds=seconds,
            usage=Usage() if result.reused else manifest.usage,
            verdict=manifest.verdict,
            summary=manifest.summary,
        )
    )


def _input_of(run: RunRecord, name: str) -> StageInput:
    record = run.stage(name)
    if record is None or not record.uri or record.state == "failed":
        raise StageError(
            f"the input stage {name!r} has no finished output",
            where=run.run_id,
            hint=f"run the stage {name!r} first",
        )
    return _read(run.workspace, record.uri)


def _read(workspace: Workspace, uri: str) -> StageInput:
    folder = workspace.at(uri)
    try:
        text = (folder / "manifest.json").read_text()
    except FileNotFoundError as error:
        raise WorkspaceError(
            f"no stage output at {uri!r}",
            where=str(workspace.root),
            hint="it was deleted: rerun the night that made it",
        ) from error
    return StageInput(Manifest.model_validate_json(text), folder)


def _inventory(folder: Path, volatile: tuple[str, ...]) -> tuple[FileEntry, ...]:
    entries = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        relative = path.relative_to(folder).as_posix()
        loose = any(
            relative == each or (each.endswith("/") and relative.startswith(each))
            for each in volatile
        )
        digest = "" if loose else file_digest(path)
        entries.append(FileEntry(path=relative, size=path.stat().st_size, digest=digest))
    return tuple(entries)


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@cache
def source_digest(rooms: tuple[str, ...]) -> str:
    """Digest of the source of some rooms (`config`, `features`, …) of this package."""
    root = Path(nightbid.__file__).parent
    total = hashlib.sha256()
    for room in sorted(set(rooms)):
        base = root / room
        paths = sorted(base.rglob("*.py")) if base.is_dir() else [base.with_suffix(".py")]
        for path in paths:
            total.update(path.relative_to(root).as_posix().encode())
            total.update(path.read_bytes())
    return total.hexdigest()[:32]


@cache
def library_versions() -> dict[str, str]:
    """Versions of the libraries that compute."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


def describe(result: StageResult) -> dict[str, Any]:
    """What an XCom carries: addresses and verdicts, never data."""
    return {
        "uri": result.uri,
        "stage": result.manifest.stage,
        "digest": result.manifest.digest,
        "verdict": result.manifest.verdict,
        "summary": result.manifest.summary,
        "rows": result.manifest.rows.model_dump(),
        "reused": result.reused,
    }
