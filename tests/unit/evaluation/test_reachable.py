"""The loss that no model can avoid, on simulated days."""

from __future__ import annotations

import datetime as dt
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nightbid.config.load import parse_pipeline
from nightbid.data.simulator.hidden import KEYS, HiddenEffects
from nightbid.data.simulator.impressions import SimulatedExchange
from nightbid.data.simulator.world import Ads
from nightbid.evaluation import reachable as module
from nightbid.evaluation.reachable import expected_log_loss, reachable
from nightbid.evaluation.rows import EvaluationRows
from nightbid.schema import KEY, LABEL, TRUTH, WEIGHT

PIPELINE = """
pipeline: small
source: {kind: simulator, start: 2026-01-01, rows_per_day: 8000, users: 400, ads: 60}
columns: {key: impression_id, time: time, user: user_id, item: ad_id, position: position}
label: {column: click}
features:
  ad_id: vocabulary
  position: {transform: identity, size: 16, training_only: true}
"""
DAYS = {"train": 3, "validate": 1, "evaluate": 1}


def of_exchange(spec):
    """Return a table of sampled rows for each split."""
    exchange, day, tables = SimulatedExchange(spec.source), dt.date(2026, 1, 3), {}
    for split, count in DAYS.items():
        parts = []
        for _ in range(count):
            parts += [pa.Table.from_batches([batch]) for batch in exchange.batches(day)]
            day += dt.timedelta(days=1)
        table = pa.concat_tables(parts)
        tables[split] = (
            table.append_column(KEY, table["impression_id"])
            .append_column(LABEL, table["click"].cast(pa.float32()))
            .append_column(WEIGHT, pa.array(np.ones(len(table), np.float32)))
            .append_column(TRUTH, table["p_click_true"])
        )
    return tables


@pytest.fixture(scope="module")
def spec():
    return parse_pipeline(PIPELINE, "small.yaml")


@pytest.fixture(scope="module")
def splits(spec):
    return of_exchange(spec)


@pytest.fixture
def evaluation(spec, splits, tmp_path):
    """Make a task with its sample, and evaluate rows that the candidate predicted."""

    def make(candidate=None, change=lambda table: table, spec=spec):
        for split, table in splits.items():
            path = tmp_path / f"split={split}" / "dt=2026-01-03" / "part-00000.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(change(table), path)
        table = splits["evaluate"]
        truth, size = table[TRUTH].to_numpy(), len(table)
        rows = EvaluationRows(
            keys=table[KEY].to_numpy(),
            labels=table[LABEL].to_numpy().astype(float),
            weights=np.ones(size),
            users=np.arange(size),
            days=np.zeros(size, np.int64),
            truth=truth,
            slices=pa.table({}),
            scores={
                "candidate": truth if candidate is None else candidate(table),
                "baseline": np.full(size, 0.04),
            },
        )
        inputs = {"sample": SimpleNamespace(path=tmp_path)}
        return SimpleNamespace(spec=spec, inputs=inputs), rows

    return make


def test_parts_of_the_reachable_loss_add_up_in_order(evaluation):
    task, rows = evaluation(lambda table: np.full(len(table), 0.05))
    report = reachable(task, rows, 0.045)
    losses, parts = report["losses"], report["parts"]
    assert losses["truth"] < losses["position"] < losses["hidden"] < losses["constant"]
    total = sum(parts[name] for name in ("noise", "position", "hidden", "model"))
    assert total == pytest.approx(losses["candidate"])
    assert losses["candidate"] == pytest.approx(
        expected_log_loss(rows.truth, np.full(len(rows), 0.05), rows.weights)
    )
    assert parts["share"] < 0.1
    assert set(report["shares"]) == {"baseline"}
    # The true probabilities gain more than any model can.
    task, rows = evaluation()
    assert reachable(task, rows, 0.045)["parts"]["share"] > 1


def test_hidden_effects_match_the_simulated_exchange(spec, splits):
    table, effects = splits["evaluate"], HiddenEffects(spec.source)
    exchange = SimulatedExchange(spec.source)
    users = np.array([int(user[1:]) for user in table["user_id"].to_pylist()])
    tastes = effects.of("user_id", table["user_id"].combine_chunks())
    assert tastes == pytest.approx(exchange.users.taste[users])
    day = Ads(spec.source.seed, spec.source.ads, (dt.date(2026, 1, 7) - spec.source.start).days)
    quality = dict(zip(day.columns["ad_id"].to_pylist(), day.quality, strict=True))
    both = sum(effects.of(name, table[name].combine_chunks()) for name in KEYS[1:])
    assert both == pytest.approx([quality[ad] for ad in table["ad_id"].to_pylist()])


def test_posterior_variance_of_hidden_effects_matches_the_error(evaluation, spec):
    task, _ = evaluation()
    sample, effects = task.inputs["sample"].path, HiddenEffects(spec.source)
    table = module._columns(sample, "evaluate", KEYS)
    evidence = module._evidence(sample)
    for name in ("user_id", "ad_id"):  # there are only six advertisers
        true, mean, variance = module._posterior(name, table[name], evidence[name], effects)
        assert np.square(true - mean).mean() == pytest.approx(variance.mean(), rel=0.5)
        assert variance.mean() < np.var(true) * 1.1


def test_the_position_part_is_zero_when_position_is_served(evaluation):
    text = PIPELINE.replace(", training_only: true", "")
    text += "gates: {features: {position_as_input: {warn: [null, 0]}}}\n"
    task, rows = evaluation(spec=parse_pipeline(text, "small.yaml"))
    assert reachable(task, rows, 0.045)["parts"]["position"] == pytest.approx(0, abs=1e-12)


def hashed(table):
    place = table.column_names.index("user_id")
    return table.set_column(place, "user_id", pa.array(["9f2c" for _ in range(len(table))]))


def test_reachable_loss_is_none_when_effects_are_unknown(evaluation):
    task, rows = evaluation(change=hashed)
    assert reachable(task, rows, 0.045) is None
    text = PIPELINE.replace("column: click", "column: conversion, given: click")
    task, rows = evaluation(spec=parse_pipeline(text, "small.yaml"))
    assert reachable(task, rows, 0.045) is None
