"""A feature that knows the outcome is refused, also on rows sampled before it was added."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from nightbid.config.load import find_pipeline
from nightbid.errors import ConfigError, CorruptDataError
from nightbid.night.record import RunRecord
from nightbid.night.stages import NIGHT
from nightbid.runner import run_stage
from nightbid.storage.workspace import Workspace

PIPELINES = Path(__file__).parents[3] / "include" / "pipelines"
SMALL = ("source.rows_per_day=500", "window.train_days=2")
STAGES = {stage.name: stage for stage in NIGHT}


@pytest.mark.parametrize("column", ["conversion", "p_click_true"])
def test_an_outcome_feature_is_rejected_even_on_reused_samples(tmp_path: Path, column: str) -> None:
    workspace = Workspace(str(tmp_path))
    leak = f"features.leak={{transform: vocabulary, column: {column}}}"
    for overrides in (SMALL, (*SMALL, leak)):
        spec = find_pipeline("ctr", PIPELINES, overrides)
        run = RunRecord.start(workspace, spec, date(2026, 1, 8))
        sampled = run_stage(STAGES["sample"], spec, run, cache_folder=tmp_path)
    assert sampled.reused
    with pytest.raises(CorruptDataError, match=f"'leak' reads '{column}', which is known only"):
        run_stage(STAGES["featurize"], spec, run, cache_folder=tmp_path)
    record = run.stage("featurize")
    assert record is not None
    assert record.state == "failed"


@pytest.mark.parametrize(
    ("pipeline", "feature", "column"),
    [
        ("ctr", "{transform: vocabulary, column: click}", "click"),
        ("cvr", "{transform: vocabulary, column: click}", "click"),
        ("cvr", "{transform: numeric, column: conversion}", "conversion"),
        ("cvr", "{transform: age, column: time, since: conversion_time}", "conversion_time"),
    ],
)
def test_features_that_read_label_columns_are_rejected(
    pipeline: str, feature: str, column: str
) -> None:
    with pytest.raises(ConfigError, match=f"'leak' reads '{column}', which is label"):
        find_pipeline(pipeline, PIPELINES, (f"features.leak={feature}",))
