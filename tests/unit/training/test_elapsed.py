"""Labels that are not final: how long positives take, and models that account for it."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from nightbid.config.pipeline import PipelineSpec
from nightbid.errors import ConfigError
from nightbid.models.network import elapsed_time_losses
from nightbid.night.record import RunRecord
from nightbid.night.stages import stage_named
from nightbid.runner import run_stage
from nightbid.sampling.delays import Delays
from nightbid.schema import LABEL, SEEN, TIME, split_files
from nightbid.storage.workspace import Workspace
from nightbid.training.elapsed import derivatives

NIGHT = date(2026, 1, 12)
HOUR = 3600.0
TREE = {
    "pipeline": "t",
    "source": {"kind": "simulator", "rows_per_day": 12000, "users": 400, "ads": 200},
    "label": {
        "column": "conversion", "given": "click", "event_time": "conversion_time",
        "attribution_days": 2, "young_days": "elapsed_time", "delay_by": "ad_category",
    },
    "window": {"train_days": 3, "validate_days": 1, "evaluate_days": 1},
    "features": {"ad_category": "vocabulary", "device_type": "vocabulary"},
    "model": {"architecture": "logistic_regression"},
    "train": {"epochs": 2, "refit": True},
    "runner": {"kind": "direct", "workers": 1},
}  # fmt: skip


@given(
    st.lists(
        st.tuples(st.floats(-8, 8), st.sampled_from([0.0, 1.0]), st.floats(0.01, 1)), min_size=1
    )
)
def test_elapsed_time_losses_and_derivatives_match_the_formula(rows) -> None:
    logits, labels, seen = (np.array(column, np.float64) for column in zip(*rows, strict=True))
    p = 1 / (1 + np.exp(-logits))
    expected = np.where(labels == 1, -np.log(p), -np.log1p(-p * seen))
    with tf.GradientTape() as tape:
        z = tf.constant(logits, tf.float32)
        tape.watch(z)
        loss = elapsed_time_losses(
            z, tf.constant(labels, tf.float32), tf.constant(seen, tf.float32)
        )
    assert np.allclose(loss.numpy(), expected, atol=2e-4)
    slope, bend = derivatives(logits, labels, seen)
    assert np.allclose(tape.gradient(loss, z).numpy(), slope, atol=2e-4)
    step = 1e-5
    ahead, behind = (derivatives(logits + at, labels, seen)[0] for at in (step, -step))
    curve = (ahead - behind) / (2 * step)
    assert np.allclose(np.maximum(curve, 1e-6), bend, atol=1e-4)


def test_elapsed_time_loss_of_final_labels_is_cross_entropy() -> None:
    logits = tf.constant([-3.0, 0.5, 9.0])
    labels = tf.constant([0.0, 1.0, 0.0])
    plain = tf.nn.sigmoid_cross_entropy_with_logits(labels, logits)
    assert np.array_equal(elapsed_time_losses(logits, labels, tf.ones(3)), plain)


def test_the_known_share_of_labels_follows_the_delays_of_each_group() -> None:
    draw = np.random.default_rng(3)
    means = {"slow": 20.0, "fast": 4.0}
    groups = np.array(["slow", "fast"], object)[draw.integers(0, 2, 40_000)]
    delays = draw.exponential([means[group] for group in groups]) * HOUR
    final = 72 * HOUR
    is_final = delays <= final
    fit = Delays.fit(delays[is_final], groups[is_final], final)
    for name, mean in means.items():
        ages = np.arange(1, 72, 1.0)
        true = (1 - np.exp(-ages / mean)) / (1 - np.exp(-72 / mean))
        fitted_share = fit.seen(ages * HOUR, np.full(len(ages), name, object))
        assert np.abs(fitted_share - true).max() < 0.02, name
    assert fit.seen(np.array([final]), np.array(["new"], object))[0] == 1.0


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    folder = tmp_path_factory.mktemp("young")
    spec = PipelineSpec.model_validate(TREE)
    workspace = Workspace(str(folder / "workspace"))
    record = RunRecord.start(workspace, spec, NIGHT)
    done = {
        name: run_stage(stage_named(name), spec, record, cache_folder=folder / "cache")
        for name in ("sample", "featurize", "train", "train_baseline", "evaluate", "export")
    }
    return {
        name: (Path(str(workspace.at(output.uri))), output.manifest)
        for name, output in done.items()
    }


def test_young_rows_have_labels_known_so_far_and_their_known_share(night) -> None:
    folder, manifest = night["sample"]
    files = split_files(folder, "young")
    assert [path.parent.name for path in files] == ["dt=2026-01-11", "dt=2026-01-12"]
    rows = pa.concat_tables(pq.read_table(path, partitioning=None) for path in files)
    midnight = 1_768_262_400_000_000  # 13 January 2026, UTC
    event = rows["conversion_time"].cast(pa.int64())
    known = np.asarray(pc.fill_null(pc.less(event, midnight), False))
    later = np.asarray(pc.fill_null(pc.greater_equal(event, midnight), False))
    assert later.any(), "some conversions of young rows come after the night"
    assert np.array_equal(np.asarray(rows[LABEL]) == 1, known)
    age = (midnight - np.asarray(rows[TIME].cast(pa.int64()))) / 1e6 / HOUR
    seen = np.asarray(rows[SEEN])
    old, new = seen[age > 40], seen[age < 4]
    assert new.mean() < old.mean() <= 1
    assert "2 of them young" in manifest.summary
    assert set(manifest.metrics["days"]).isdisjoint({"2026-01-11", "2026-01-12"})
    assert not (folder / "profile" / "dt=2026-01-12.json").exists(), "gates do not judge them"


def test_only_the_refitted_model_learns_young_rows(night) -> None:
    young = sum(
        pq.read_metadata(path).num_rows for path in split_files(night["featurize"][0], "young")
    )
    refitted = night["export"][1].metrics["refit"]
    assert 0.8 * young < refitted["young_rows"] < young, "a tenth of the users is held out"
    assert refitted["epochs"] == night["train"][1].metrics["best_epoch"]
    final = [
        p for split in ("train", "validate") for p in split_files(night["featurize"][0], split)
    ]
    rows = sum(pq.read_metadata(path).num_rows for path in final)
    assert night["train"][1].rows.read == rows


def test_trees_learn_young_rows(night, tmp_path: Path) -> None:
    from nightbid.night.progress import unwatched
    from nightbid.training.job import FitJob, run_job

    spec = PipelineSpec.model_validate(
        {**TREE, "model": {"architecture": "gradient_boosted_trees", "parameters": {"trees": 30}}}
    )
    metrics = {}
    for young in (False, True):
        job = FitJob(model=spec.model, train=spec.train, label=spec.label, seed=1, young=young,
                  featurized=night["featurize"][0], output=tmp_path / str(young))  # fmt: skip
        metrics[young] = run_job(job, progress=lambda *_: None, watch=unwatched)
    assert metrics[True]["rows"] > metrics[False]["rows"]
    losses = [metrics[young]["validation"]["log_loss"] for young in (False, True)]
    assert losses[1] == pytest.approx(losses[0], rel=0.05), "it starts from the rate as well"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": {}}, "set train.refit: true"),
        ({"label": {**TREE["label"], "event_time": None}}, "needs label.event_time"),
        ({"label": {**TREE["label"], "young_days": "left_out"}}, "label.delay_by 'ad_category' is"),
        ({"train": {"refit": True, "positive_weight": 2}}, "positive_weight: 1"),
        (
            {
                "source": {
                    "kind": "events",
                    "impressions": "i",
                    "clicks": "c",
                    "conversions": "v",
                    "key": "id",
                    "attribution_days": 2,
                },
                "label": {
                    **TREE["label"],
                    "column": "converted",
                    "event_time": "conversion_time",
                    "given": "clicked",
                },
            },
            "is not for kind: events",
        ),
    ],
)
def test_incompatible_young_row_settings_are_rejected(change, message) -> None:
    with pytest.raises((ConfigError, ValueError), match=message):
        PipelineSpec.model_validate({**TREE, **change})
