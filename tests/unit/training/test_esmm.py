"""Tests one model of clicks and conversions, and every stage that uses it."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nightbid.config.load import parse_pipeline
from nightbid.config.models import Model, Train
from nightbid.errors import ConfigError
from nightbid.models.predict import load_model
from nightbid.models.runtime import tensorflow
from nightbid.night.record import RunRecord
from nightbid.night.stages import NIGHT
from nightbid.runner import run_stage
from nightbid.schema import GIVEN, LABEL, split_files
from nightbid.serving.bundle import Bundle
from nightbid.storage.workspace import Workspace
from nightbid.training.stage import run

ESMM = Model(architecture="esmm", embedding_dim=4, embedding_l2=1, parameters={"hidden": [16]})
PIPELINE = """
pipeline: small
source: {kind: simulator, start: 2026-01-01, rows_per_day: 3000, users: 300, ads: 60}
label: {column: conversion, given: click, entire_space: true, event_time: conversion_time,
        attribution_days: 3}
window: {train_days: 2}
sampling: {negative_rate: 0.5}
features: {user_id: {min_count: 2}, ad_id: {min_count: 2}, site_id: vocabulary}
model: {architecture: esmm, embedding_dim: 4}
train: {epochs: 1, batch_size: 512, refit: false}
evaluate: {bootstrap: 20}
"""


@pytest.mark.parametrize(("a", "b"), [(0.3, -1.2), (-80.0, 3.0), (60.0, 70.0), (-50.0, -60.0)])
def test_the_joint_logit_equals_the_logit_of_the_product(a, b):
    tf = tensorflow()
    from nightbid.models.network import joint_logit

    logit = float(joint_logit(tf.constant([[a, b]], tf.float64))[0])
    log_p = -np.logaddexp(0, -a) - np.logaddexp(0, -b)
    assert logit == pytest.approx(log_p - np.log(-np.expm1(log_p)), rel=1e-6)


@pytest.fixture(scope="module")
def converting(featurized, tmp_path_factory):
    """Write conversions after clicks: a higher price means fewer conversions but more clicks."""
    folder = tmp_path_factory.mktemp("converting")
    (folder / "fitted").mkdir()
    (folder / "fitted" / "features.json").write_text(
        (featurized / "fitted" / "features.json").read_text()
    )
    draw = np.random.default_rng(4)
    truth = {}
    for split in ("train", "validate", "evaluate"):
        for path in split_files(featurized, split):
            table = pq.read_table(path, partitioning=None)
            click = table[LABEL].to_numpy()
            p = 1 / (1 + np.exp(1.5 * table["price"].to_numpy()))
            bought = (click * (draw.random(len(p)) < p)).astype(np.float32)
            place = table.column_names.index(LABEL)
            table = table.set_column(place, LABEL, pa.array(bought))
            table = table.append_column(GIVEN, pa.array(click))
            target = folder / path.relative_to(featurized)
            target.parent.mkdir(parents=True)
            pq.write_table(table, target)
            truth[split] = p
    return folder, truth["evaluate"]


def entire(task):
    label = {"column": "conversion", "given": "click", "entire_space": True}
    spec = task.spec.model_validate({**task.spec.model_dump(), "label": label})
    return replace(task, spec=spec)


def test_esmm_learns_clicks_and_conversions(converting, task_of):
    folder, truth = converting
    task = entire(task_of(folder, ESMM, Train(batch_size=128, epochs=8, learning_rate=0.005)))
    run(task)
    model = load_model(task.output / "model")
    table = pq.read_table(split_files(folder, "evaluate")[0], partitioning=None)
    both, tasks = model.predict(table), model.predict_tasks(table)
    assert both == pytest.approx(tasks["click"] * tasks["conversion"], abs=1e-6)
    known = pa.concat_tables(
        pq.read_table(path, partitioning=None) for path in split_files(folder, "train")
    )
    assert both.mean() == pytest.approx(known[LABEL].to_numpy().mean(), rel=0.15)
    assert tasks["click"].mean() == pytest.approx(known[GIVEN].to_numpy().mean(), rel=0.15)
    # The model predicts conversions for every impression, though it saw them after clicks only.
    assert np.corrcoef(tasks["conversion"], truth)[0, 1] > 0.7


def test_esmm_without_entire_space_is_rejected_with_the_setting(converting, task_of):
    with pytest.raises(ConfigError, match=r"label\.entire_space: true"):
        run(task_of(converting[0], ESMM))


@pytest.mark.slow
def test_every_stage_supports_esmm(tmp_path):
    spec = parse_pipeline(PIPELINE, "small.yaml")
    record = RunRecord.start(Workspace(tmp_path / "ws"), spec, dt.date(2026, 1, 9))
    outputs = {
        stage.name: run_stage(stage, spec, record, cache_folder=tmp_path / "cache")
        for stage in NIGHT
        if stage.name in ("sample", "featurize", "train", "train_baseline", "evaluate", "export")
    }
    figures = outputs["evaluate"].manifest.metrics
    day = outputs["sample"].manifest.metrics["days"]["2026-01-06"]
    assert figures["rows"] == day["read"], "every impression is judged"
    assert figures["oracle"]["log_loss"] < figures["constant"]["log_loss"]
    click, conversion = figures["tasks"]["click"], figures["tasks"]["conversion"]
    assert click["rows"] == figures["rows"]
    assert conversion["rows"] == click["positives"]
    assert conversion["positives"] == figures["positives"]
    assert outputs["export"].manifest.metrics["parity_max_difference"] < 1e-5
    folder = tmp_path / "ws" / outputs["featurize"].uri
    table = pq.read_table(split_files(folder, "evaluate")[0], partitioning=None)
    bundle = Bundle.load(tmp_path / "ws" / outputs["export"].uri)
    served = bundle.predict_tasks(table)
    assert set(served) == {"click", "conversion"}
    assert bundle.predict(table) == pytest.approx(served["click"] * served["conversion"], abs=1e-5)
    trained = outputs["sample"].manifest.metrics["days"]["2026-01-04"]
    assert 0.4 < trained["dropped"] / trained["read"] < 0.5, "half of what was not clicked"
