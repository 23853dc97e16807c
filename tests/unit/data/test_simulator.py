"""The simulated exchange is reproducible, draws labels from its truth, and injects faults."""

from __future__ import annotations

from datetime import date
from functools import cache

import numpy as np
import pyarrow as pa
import pytest
from nightbid.config.faults import FAULTS
from nightbid.config.load import parse_pipeline
from nightbid.config.sources import SimulatorSource
from nightbid.data.simulator.faults import KINDS
from nightbid.data.simulator.source import MEANING, SimulatorLogs
from nightbid.errors import ConfigError, MissingDataError

DAY = date(2026, 1, 3)


def made(day: date = DAY, chunk: int = 1 << 20, **settings) -> pa.Table:
    block = SimulatorSource(**{"rows_per_day": 3000, "users": 500, "ads": 100, **settings})
    return pa.Table.from_batches(list(SimulatorLogs(block).batches(day, chunk))).combine_chunks()


@cache
def clean_bytes(day: date) -> bytes:
    return bytes_of(made(day, rows_per_day=800))


def bytes_of(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def test_equal_seeds_give_equal_bytes_and_other_seeds_differ():
    assert bytes_of(made()) == bytes_of(made())
    assert made(seed=1)["ad_id"] != made()["ad_id"]


@pytest.mark.parametrize("chunk", [1, 17, 1000])
def test_a_day_does_not_depend_on_the_chunk_size(chunk):
    rows = {"rows_per_day": 40} if chunk == 1 else {}
    assert bytes_of(made(chunk=chunk, **rows)) == bytes_of(made(**rows))


def test_a_day_does_not_depend_on_earlier_days():
    later = date(2026, 3, 1)
    block = SimulatorSource(rows_per_day=500, users=100, ads=50)
    logs = SimulatorLogs(block)
    list(logs.batches(DAY))
    alone = pa.Table.from_batches(list(SimulatorLogs(block).batches(later)))
    assert alone.equals(pa.Table.from_batches(list(logs.batches(later))))
    assert logs.days() is None


@pytest.fixture(scope="module")
def many():
    return made(rows_per_day=120_000, users=5000, ads=1000)


@pytest.mark.parametrize("label", ["click", "conversion"])
def test_label_rates_match_the_true_probabilities_in_every_decile(many, label):
    table = many
    if label == "conversion":
        table = many.filter(pa.array(np.asarray(many["click"]) == 1))
    truth = np.asarray(table[MEANING.truth[label]])
    observed = np.asarray(table[label], np.float64)
    bucket = np.searchsorted(np.quantile(truth, np.arange(0.1, 1, 0.1)), truth)
    for at in range(10):
        in_bucket = bucket == at
        error = np.sqrt((truth[in_bucket] * (1 - truth[in_bucket])).sum()) / in_bucket.sum()
        assert abs(observed[in_bucket].mean() - truth[in_bucket].mean()) < 4 * error
    # Equal buckets would prove nothing.
    assert truth[bucket == 9].mean() > 2 * truth[bucket == 0].mean()


def test_simulated_rows_satisfy_the_rules_of_an_exchange(many):
    rate = np.asarray(many["click"]).mean()
    assert 0.02 < rate < 0.1
    assert len(many["impression_id"].unique()) == len(many)
    time = np.asarray(many["time"].cast(pa.timestamp("us")))
    assert (np.diff(time) >= np.timedelta64(0)).all()
    assert (time.astype("datetime64[D]") == np.datetime64(DAY)).all()
    clicked, converted = (np.asarray(many[name]) == 1 for name in ("click", "conversion"))
    assert not (converted & ~clicked).any()
    assert (np.asarray(many["win_price"]) <= np.asarray(many["bid"])).all()
    assert (np.asarray(many["win_price"]) >= np.asarray(many["floor_price"])).all()


def test_price_is_the_highest_competing_bid_or_the_floor():
    rows = made(competing_bids=True)
    assert bytes_of(rows.drop_columns(["competing_bids"])) == bytes_of(made())
    bids = np.array(rows["competing_bids"].to_pylist())
    assert bids.shape == (len(rows), 3)
    assert (np.diff(bids, axis=1) <= 0).all()
    floor, price = (rows[name].to_numpy() for name in ("floor_price", "win_price"))
    np.testing.assert_allclose(price, np.maximum(bids[:, 0], floor), atol=1e-4)


def test_exploration_logs_propensities_and_true_values_of_all_candidates():
    rows = made(exploration=1.0, rows_per_day=20_000)
    shown, chance = rows["ad_id"].to_pylist(), rows["propensity"].to_numpy()
    lists, truths = rows["candidates"].to_pylist(), rows["candidates_true"].to_pylist()
    assert all(len(set(candidates)) == len(candidates) for candidates in lists)
    own = [t[c.index(ad)] for ad, c, t in zip(shown, lists, truths, strict=True)]
    np.testing.assert_allclose(own, rows["p_click_true"].to_numpy(), rtol=1e-12)
    # Inverse propensities count every candidate once and value the uniform policy correctly.
    count = np.array([len(candidates) for candidates in lists])
    assert abs((1 / chance).mean() / count.mean() - 1) < 0.03
    uniform = np.mean([np.mean(clicks) for clicks in truths])
    weighted = rows["p_click_true"].to_numpy() / chance / count
    assert abs(weighted.mean() - uniform) < 4 * weighted.std() / np.sqrt(len(rows))


def test_every_declared_fault_is_implemented():
    assert set(KINDS) == set(FAULTS)
    assert len(FAULTS) >= 25


GONE = {"missing_day", "empty_day"}


@pytest.mark.parametrize("kind", sorted(set(FAULTS) - GONE))
def test_a_fault_does_not_depend_on_the_chunk_size(kind):
    fault = (f"{kind}@{DAY}",)
    broken = bytes_of(made(faults=fault, rows_per_day=800))
    assert broken != clean_bytes(DAY)
    assert bytes_of(made(faults=fault, rows_per_day=800, chunk=500)) == broken


def test_faults_do_not_change_other_days():
    faults = tuple(f"{kind}@{DAY}" for kind in FAULTS)
    before = date(2026, 1, 2)
    assert bytes_of(made(before, faults=faults, rows_per_day=800)) == clean_bytes(before)


def test_fault_amounts_are_applied():
    def share(fault):
        return made(faults=(fault,), rows_per_day=20_000)["advertiser_id"].null_count / 20_000

    assert share(f"nulls@{DAY}:0.1") == pytest.approx(0.112, abs=0.01)  # a Saturday: 1.12 x rows
    clean, double = made(rows_per_day=60_000), made(
        rows_per_day=60_000, faults=(f"label_rate@{DAY}:2",)
    )  # fmt: skip
    ratio = np.asarray(double["click"]).sum() / np.asarray(clean["click"]).sum()
    assert ratio == pytest.approx(2, abs=0.15)
    bot = made(rows_per_day=60_000, faults=(f"bot_traffic@{DAY}:0.3",))
    users = bot.filter(pa.array(np.asarray(bot["click"]) == 1))["user_id"].value_counts()
    top = max(row["counts"] for row in users.to_pylist())
    assert top / np.asarray(bot["click"]).sum() == pytest.approx(0.3, abs=0.03)


def test_missing_and_empty_day_faults_remove_all_rows():
    with pytest.raises(MissingDataError, match=r"2026-01-03.*missing_day"):
        made(faults=(f"missing_day@{DAY}",))
    block = SimulatorSource(rows_per_day=100, faults=(f"empty_day@{DAY}",))
    assert sum(batch.num_rows for batch in SimulatorLogs(block).batches(DAY)) == 0


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("null@2026-01-03", "did you mean 'nulls'"),
        ("label_leek@2026-01-03", "did you mean 'label_leak'"),
        ("nulls@yesterday", "write kind@YYYY-MM-DD"),
        ("nulls@2026-01-03:lots", "write kind@YYYY-MM-DD"),
        ("nulls", "write kind@YYYY-MM-DD"),
        ("nulls@2026-01-03:nan", "write kind@YYYY-MM-DD"),
    ],
)
def test_invalid_faults_are_rejected_when_the_pipeline_loads(fault, message):
    text = (
        "pipeline: p\nfeatures: {ad_id: vocabulary}\n"
        f"source: {{kind: simulator, faults: ['{fault}']}}"
    )
    with pytest.raises(ConfigError, match=message) as caught:
        parse_pipeline(text, "p.yaml")
    assert fault in str(caught.value) or fault.split("@")[0] in str(caught.value)
