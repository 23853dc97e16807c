"""Nights through the gates, for `gates.py`: what each gate says, and whose model is promoted."""

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
    """What a night came to."""

    said: dict[str, str] = field(default_factory=dict)
    """Gate → pass, warn or stop; a stage that refused its input → refused."""
    first: str = ""
    """Gate or stage that ended the night."""
    summaries: dict[str, str] = field(default_factory=dict)

    def not_pass(self, stage: str) -> bool:
        """Whether it said anything else."""
        return self.said[stage] != "pass"


@dataclass(frozen=True)
class Bench:
    """A workspace with its pipeline."""

    root: Path
    cache: Path
    pipeline: str
    settings: tuple[str, ...]
    stages: tuple[Stage, ...] = JUDGED
    pipelines: Path = PIPELINES

    def spec(self, faults: tuple[str, ...] = ()) -> PipelineSpec:
        """The pipeline, with faults."""
        added = (f"source.faults=[{', '.join(faults)}]",) if faults else ()
        return load_pipeline(self.pipelines / f"{self.pipeline}.yaml", (*self.settings, *added))

    def first(self, start: date) -> date:
        """First night that has a whole window."""
        window = self.spec().window
        days = window.train_days + window.validate_days + window.evaluate_days
        return start + timedelta(days=days - 1)

    def branch(self, name: str) -> Bench:
        """A copy that shares the outputs of stages, which nobody changes, and nothing else."""
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
        """Run a night up to the gate of the model, and crown it if nothing stopped.

        Args:
            newest: its day.
            faults: `kind@day` each.
            behind: also ask the gates behind one that has stopped, up to this one.
        """
        workspace = Workspace(str(self.root))
        spec = self.spec(faults)
        run = RunRecord.start(workspace, spec, newest)
        judged, verdict = Judged(), ""
        for stage in self.stages:
            try:
                result = run_stage(stage, spec, run, cache_folder=self.cache)
                said, summary = str(result.manifest.verdict), result.manifest.summary
                verdict = result.manifest.metrics.get("verdict", verdict)
            except GateStopped as stop:
                said, summary = "stop", stop.what
            except DataError as error:
                said, summary = "refused", str(error)
            except StageError as error:
                # Not what should catch a fault: it happens only behind a gate that has stopped.
                judged.summaries[stage.name] = str(error)
                judged.said[stage.name] = "failed"
                return judged
            if stage.is_gate or said == "refused":
                judged.said[stage.name] = said
                judged.summaries[stage.name] = summary
            if said in ("stop", "refused"):
                judged.first = judged.first or stage.name
                if said == "refused" or not behind:
                    return judged
            if judged.first and stage.name == behind:
                return judged
        if not judged.first and verdict not in ("", "worse"):
            _crown(STAGES["export"], spec, run, self.cache)
        return judged


def _crown(export: Stage, spec: PipelineSpec, run: RunRecord, cache: Path) -> None:
    """Make the night's model the champion, as a promotion would."""
    result = run_stage(export, spec, run, cache_folder=cache)
    ChampionPointer(run.workspace, spec.pipeline).promote(
        run_id=run.run_id,
        night=run.date,
        bundle_uri=result.uri,
        bundle_digest=result.manifest.digest,
        reason="clean",
    )


def learned(bench: Bench, work: Path, nights: int) -> Bench:
    """Put in force what history proposes, beside the limits that the pipeline has already."""
    spec = bench.spec()
    workspace = Workspace(str(bench.root))
    pipelines = work / "pipelines"
    suite = pipelines / "suites" / f"{bench.pipeline}.yaml"
    if not pipelines.exists():
        bands = bands_of(propose(workspace, bench.pipeline, spec.gates, nights))
        made = shutil.copytree(PIPELINES, work / "pipelines.made", dirs_exist_ok=True)
        own = made / "suites" / suite.name
        kept = yaml.safe_load(own.read_text()) if own.exists() else {}
        own.write_text(to_yaml(bench.pipeline, {**kept, "bands": bands}))
        made.rename(pipelines)
    print(f"judged from here on by bands of {nights} nights: {suite}", flush=True)
    return replace(bench, pipelines=pipelines)


def forget() -> None:
    """Let go of the last night's graphs: hundreds of nights share this process."""
    if (keras := sys.modules.get("keras")) is not None:
        keras.backend.clear_session()
    gc.collect()
