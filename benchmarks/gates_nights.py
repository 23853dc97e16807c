"""Runs nights through the gates for `gates.py`, and promotes the models that pass."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path

import yaml

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from nightbid.config.load import load_pipeline
from nightbid.config.pipeline import PipelineSpec
from nightbid.errors import DataError, GateStopped, StageError
from nightbid.gates.propose import bands_of, propose, to_yaml
from nightbid.night.champion import ChampionPointer
from nightbid.night.record import RunRecord
from nightbid.night.stage import Stage
from nightbid.night.stages import NIGHT
from nightbid.runner import run_stage
from nightbid.storage.workspace import Workspace

PIPELINES = Path(__file__).parents[1] / "include" / "pipelines"
CHEAP = ("model.architecture=logistic_regression", "model.embedding_dim=4", "train.epochs=1")
STAGES = {stage.name: stage for stage in NIGHT}
JUDGED = tuple(STAGES[name] for name in list(STAGES)[: list(STAGES).index("gate_model") + 1])
GATES = tuple(stage.name for stage in JUDGED if stage.is_gate)
BEFORE_TRAINING = JUDGED[: JUDGED.index(STAGES["train"])]


@dataclass
class Judged:
    """Verdicts of a night."""

    said: dict[str, str] = field(default_factory=dict)
    """Maps each gate to pass, warn or stop, and a stage that refused its input to refused."""
    first: str = ""
    """Gate or stage that ended the night."""
    summaries: dict[str, str] = field(default_factory=dict)

    def not_pass(self, stage: str) -> bool:
        """Whether the verdict of a stage is not pass."""
        return self.said[stage] != "pass"


@dataclass(frozen=True)
class Bench:
    """A workspace with its pipeline and settings."""

    root: Path
    cache: Path
    pipeline: str
    settings: tuple[str, ...]
    stages: tuple[Stage, ...] = JUDGED
    pipelines: Path = PIPELINES

    def spec(self, faults: tuple[str, ...] = ()) -> PipelineSpec:
        """Load the pipeline, with faults added to its source."""
        added = (f"source.faults=[{', '.join(faults)}]",) if faults else ()
        return load_pipeline(self.pipelines / f"{self.pipeline}.yaml", (*self.settings, *added))

    def first(self, start: date) -> date:
        """Return the first night with a complete window."""
        window = self.spec().window
        days = window.train_days + window.validate_days + window.evaluate_days
        return start + timedelta(days=days - 1)

    def branch(self, name: str) -> Bench:
        """Copy the workspace; the copy shares only the immutable outputs of stages."""
        copy = self.root.parent / name
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        (self.root / "stages").mkdir(parents=True, exist_ok=True)
        (copy / "stages").symlink_to((self.root / "stages").resolve())
        for folder in ("runs", "champion"):
            if (self.root / folder).exists():
                shutil.copytree(self.root / folder, copy / folder)
        return replace(self, root=copy)

    def night(self, newest: date, faults: tuple[str, ...] = (), *, behind: str = "") -> Judged:
        """Run a night up to the model gate, and promote its model if no gate stopped.

        Args:
            newest: Day of the night.
            faults: Faults as `kind@day`.
            behind: Last gate to run after another gate has stopped.
        """
        workspace = Workspace(str(self.root))
        spec = self.spec(faults)
        run = RunRecord.start(workspace, spec, newest)
        judged, verdict = Judged(), ""
        for stage in self.stages:
            try:
                result = run_stage(stage, spec, run, cache_folder=self.cache)
                state, summary = str(result.manifest.verdict), result.manifest.summary
                verdict = result.manifest.metrics.get("verdict", verdict)
            except GateStopped as stop:
                state, summary = "stop", stop.what
            except DataError as error:
                state, summary = "refused", str(error)
            except StageError as error:
                # This is no detection: it happens only after a gate has stopped.
                judged.summaries[stage.name] = str(error)
                judged.said[stage.name] = "failed"
                return judged
            if stage.is_gate or state == "refused":
                judged.said[stage.name] = state
                judged.summaries[stage.name] = summary
            if state in ("stop", "refused"):
                judged.first = judged.first or stage.name
                if state == "refused" or not behind:
                    return judged
            if judged.first and stage.name == behind:
                return judged
        if not judged.first and verdict not in ("", "worse"):
            _crown(STAGES["export"], spec, run, self.cache)
        return judged


def _crown(export: Stage, spec: PipelineSpec, run: RunRecord, cache: Path) -> None:
    """Promote the night's model to champion."""
    result = run_stage(export, spec, run, cache_folder=cache)
    ChampionPointer(run.workspace, spec.pipeline).promote(
        run_id=run.run_id,
        night=run.date,
        bundle_uri=result.uri,
        bundle_digest=result.manifest.digest,
        reason="clean",
    )


def learned(bench: Bench, work: Path, nights: int) -> Bench:
    """Apply the bands that `gates propose` learns, in addition to the pipeline's own limits."""
    spec = bench.spec()
    workspace = Workspace(str(bench.root))
    pipelines = work / "pipelines"
    suite = pipelines / "suites" / f"{bench.pipeline}.yaml"
    if not pipelines.exists():
        bands = bands_of(propose(workspace, bench.pipeline, spec.gates, nights))
        copied = shutil.copytree(PIPELINES, work / "pipelines.made", dirs_exist_ok=True)
        own = copied / "suites" / suite.name
        suite_content = yaml.safe_load(own.read_text()) if own.exists() else {}
        own.write_text(to_yaml(bench.pipeline, {**suite_content, "bands": bands}))
        copied.rename(pipelines)
    print(f"judged from here on by bands of {nights} nights: {suite}", flush=True)
    return replace(bench, pipelines=pipelines)


def forget() -> None:
    """Release the last night's graphs, because hundreds of nights share this process."""
    if (keras := sys.modules.get("keras")) is not None:
        keras.backend.clear_session()
    gc.collect()
