"""Seed variance: how much trainings on the same rows differ if only the seed changes.

A candidate and a champion are two draws from this distribution. A difference within its spread is
no evidence that the change between them had an effect.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from nightbid.config.gates import SeedNoise
from nightbid.config.pipeline import PipelineSpec
from nightbid.errors import ConfigError, StageError
from nightbid.night.progress import Progress, silent
from nightbid.night.record import RunRecord
from nightbid.night.stages import stage_named
from nightbid.night.task import StageOutput
from nightbid.runner import run_stage
from nightbid.storage.workspace import Workspace

SHARED = ("sample", "featurize", "train_baseline")
EACH = ("train", "evaluate")


@dataclass(frozen=True)
class SeedMetrics:
    """Metrics of one training."""

    seed: int
    auc: float
    normalized_entropy: float


def model_digest(spec: PipelineSpec) -> str:
    """Compute the digest of the blocks that determine the spread: it identifies the model."""
    parts = spec.model_dump(mode="json", include={"model", "train", "label"})
    del parts["train"]["seed"]
    parts["train"]["refit"] = False  # A refit does not change the judged model.
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def draw(
    workspace: Workspace,
    spec: PipelineSpec,
    night: date,
    seeds: int,
    *,
    cache: Path,
    progress: Callable[[str], Progress] = lambda _: silent,
) -> list[SeedMetrics]:
    """Train a night's candidate with its own seed and `seeds` others, and evaluate all of them.

    Outputs of the night and trainings of earlier calls are reused.

    Args:
        workspace: Workspace for the outputs.
        spec: Specification of the pipeline.
        night: Newest day of logs.
        seeds: Number of additional seeds.
        cache: Folder for downloads and derived files.
        progress: Function from a step's name to its progress callback.

    Raises:
        ConfigError: The pipeline predicts values.
        StageError: A metric is undefined, so there is no spread.
        NightbidError: A stage failed.
    """
    if spec.label.kind == "value":
        raise ConfigError(
            "seed noise is measured in normalized entropy, but this pipeline predicts values",
            where=spec.pipeline,
            hint="train with several train.seed, and compare the runs:"
            f" `nightbid compare {spec.pipeline} RUN RUN`",
        )
    # `sweep` keeps this run out of the list of nights and out of other nights' history.
    name = f"{spec.pipeline}-{night}-noise"
    run = RunRecord.start(workspace, spec, night, run_id=name, trigger="noise", sweep=name)

    def stage(name: str, spec: PipelineSpec, label: str) -> StageOutput:
        return run_stage(
            stage_named(name),
            spec,
            run,
            cache_folder=cache,
            attempt=run.next_attempt(name),
            progress=progress(label),
        )

    for stage_name in SHARED:
        stage(stage_name, spec, stage_name)
    draws = []
    for seed in range(spec.train.seed, spec.train.seed + seeds + 1):
        train = spec.train.model_copy(update={"seed": seed})
        other = spec.model_copy(update={"train": train})
        for stage_name in EACH:
            result = stage(stage_name, other, f"{stage_name}, seed {seed}")
        metrics = result.manifest.metrics["candidate"]
        if metrics["auc"] is None or metrics["normalized_entropy"] is None:
            raise StageError(
                f"AUC {metrics['auc']}, normalized entropy {metrics['normalized_entropy']} of seed"
                f" {seed}: a spread cannot be computed",
                where=run.run_id,
                hint="use a night whose newest day has positives",
            )
        draws.append(SeedMetrics(seed, metrics["auc"], metrics["normalized_entropy"]))
    return draws


def spread(spec: PipelineSpec, night: date, draws: list[SeedMetrics]) -> SeedNoise:
    """Compute standard deviations over the seeds (with n - 1 in the denominator)."""
    return SeedNoise(
        night=night,
        seeds=tuple(draw.seed for draw in draws),
        auc=round(statistics.stdev(draw.auc for draw in draws), 6),
        normalized_entropy=round(statistics.stdev(draw.normalized_entropy for draw in draws), 6),
        model=model_digest(spec),
    )
