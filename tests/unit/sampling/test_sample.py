"""The sampling stage: which rows it keeps, their weights, and what happens to the others."""

from __future__ import annotations

import hashlib
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nightbid.config.pipeline import Night, PipelineSpec
from nightbid.errors import CorruptDataError, DataError, MissingDataError
from nightbid.sampling.rows import draw, sampling_hash
from nightbid.sampling.stage import fingerprint, run
from nightbid.schema import KEY, LABEL, REASON, TEXT, TIME, TRUTH, USER, WEIGHT
from tasks import task_of

from .small_logs import SMALL, logs, parsed, spec_of

NEWEST = date(2026, 1, 20)


@pytest.fixture
def sample(tmp_path):
    """Run the stage into a new folder; return its outcome and the folder."""
    count = iter(range(1000))

    def start(spec: PipelineSpec, newest: date = NEWEST):
        folder = tmp_path / f"out{next(count)}"
        folder.mkdir()
        task = task_of(spec, newest, folder, workspace=tmp_path, cache=tmp_path)
        return run(task), folder

    return start


def rows_of(folder, split: str) -> pa.Table:
    paths = sorted(folder.glob(f"split={split}/dt=*/part-*.parquet"))
    return pa.concat_tables([pq.ParquetFile(path).read() for path in paths])


def test_a_night_is_split_by_day_and_row_counts_add_up(sample):
    spec = spec_of()
    outcome, folder = sample(spec)
    days = {}
    for split in ("train", "validate", "evaluate"):
        for path in folder.glob(f"split={split}/dt=*"):
            days.setdefault(split, []).append(path.name)
    assert {split: len(tables) for split, tables in days.items()} == {
        "train": 2,
        "validate": 1,
        "evaluate": 1,
    }
    assert days["evaluate"] == [f"dt={NEWEST}"]
    assert days["validate"] == [f"dt={NEWEST - timedelta(days=1)}"]
    counts = outcome.rows
    assert (
        counts.read == counts.written + counts.quarantined + counts.repeated + counts.dropped > 3000
    )
    assert (counts.quarantined, counts.dropped) == (0, 0)
    table = rows_of(folder, "evaluate")
    for name, kind in (
        (KEY, pa.int64()),
        (LABEL, pa.float32()),
        (WEIGHT, pa.float32()),
        (USER, pa.int64()),
        (TIME, pa.timestamp("us", "UTC")),
        (TRUTH, pa.float64()),
    ):
        assert table.schema.field(name).type == kind
        assert table[name].null_count == 0
    assert np.array_equal(np.asarray(table[LABEL]), np.asarray(table["click"], np.float32))
    assert table[TRUTH].equals(table["p_click_true"])
    assert len(table[KEY].unique()) == len(table["impression_id"].unique())
    assert len(table[USER].unique()) == len(table["user_id"].unique())
    assert REASON not in table.column_names
    assert len(list(folder.glob("profile/dt=*.json"))) == 4
    assert outcome.metrics["label_rate"] == pytest.approx(
        sum(float(pc.sum(rows_of(folder, split)[LABEL]).as_py()) for split in days) / counts.read
    )


def test_equal_runs_write_identical_bytes(sample):
    spec = spec_of(sampling={"negative_rate": 0.3})

    def digests(folder):
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*.*")
        }

    first, second = digests(sample(spec)[1]), digests(sample(spec)[1])
    assert first == second
    assert len(first) == 9


def test_the_next_night_samples_the_same_rows_of_a_day(sample):
    spec = spec_of(sampling={"negative_rate": 0.3})
    shared = NEWEST - timedelta(days=2)
    tonight, tomorrow = (sample(spec, NEWEST + timedelta(days=at))[1] for at in (0, 1))
    name = f"split=train/dt={shared}/part-00000.parquet"
    assert (tonight / name).read_bytes() == (tomorrow / name).read_bytes()


def test_negatives_are_sampled_and_weighted_in_training_only(sample):
    whole, plain = sample(spec_of())
    outcome, folder = sample(spec_of(sampling={"negative_rate": 0.25}))
    for split in ("validate", "evaluate"):
        assert rows_of(folder, split).equals(rows_of(plain, split))
    train, full = rows_of(folder, "train"), rows_of(plain, "train")
    positives = pc.sum(full[LABEL]).as_py()
    assert pc.sum(train[LABEL]).as_py() == positives
    weight, label = np.asarray(train[WEIGHT]), np.asarray(train[LABEL])
    assert set(weight[label == 1]) == {1.0}
    assert set(weight[label == 0]) == {4.0}
    share = (label == 0).sum() / (len(full) - positives)
    assert share == pytest.approx(0.25, abs=0.04)
    assert outcome.rows.dropped == len(full) - len(train)
    # The weights restore the original rate.
    assert outcome.metrics["label_rate"] == pytest.approx(whole.metrics["label_rate"], rel=0.1)


@settings(max_examples=40)
@given(
    rate=st.floats(0.05, 0.95),
    positive=st.floats(0.01, 0.5),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_weighted_label_rate_is_unbiased(rate, positive, seed):
    random = np.random.default_rng(seed)
    rows = 20_000
    label = (random.random(rows) < positive).astype(np.float32)
    table = pa.table(
        {
            KEY: random.permutation(rows * 3)[:rows] + int(random.integers(0, 2**40)),
            LABEL: label,
            WEIGHT: np.ones(rows, np.float32),
        }
    )
    sampled = draw(table, spec_of(sampling={"negative_rate": rate}), "train", [])
    weight = np.asarray(sampled[WEIGHT], np.float64)
    total = weight.sum()
    negatives = float((label == 0).sum())
    # The number of sampled negatives is binomial; each represents 1/rate rows.
    error = np.sqrt(negatives * (1 - rate) / rate)
    assert abs(total - rows) < 5 * error + 1e-3 * rows
    again = draw(table.take(random.permutation(rows)), spec_of(sampling={"negative_rate": rate}),
                 "train", [])  # fmt: skip
    assert set(sampled[KEY].to_pylist()) == set(again[KEY].to_pylist())


@settings(max_examples=20)
@given(rate=st.floats(0.1, 0.9), step=st.floats(0.01, 0.09), seed=st.integers(0, 1000))
def test_a_higher_rate_keeps_all_rows_of_a_lower_rate(rate, step, seed):
    keys = np.random.default_rng(seed).integers(0, 2**62, 2000)
    low, high = sampling_hash(keys) < rate, sampling_hash(keys) < rate + step
    assert not (low & ~high).any()


def test_a_duplicate_key_is_kept_once_even_across_batches():
    table = logs(4, impression_id=[7, 8, 7, 9])
    keys: list = []
    first = draw(parsed(table).good, spec_of(), "train", keys)
    assert first["impression_id"].to_pylist() == [7, 8, 9]
    second = draw(parsed(logs(3, impression_id=[9, 10, 7])).good, spec_of(), "train", keys)
    assert second["impression_id"].to_pylist() == [10]


def test_a_day_loaded_twice_is_counted_and_its_copies_are_dropped(sample):
    source = {**SMALL, "faults": [f"duplicated_day@{NEWEST}"]}
    outcome, _ = sample(spec_of(source=source))
    day = outcome.metrics["days"][str(NEWEST)]
    assert day["repeated"] == day["written"] == day["read"] / 2
    assert day["dropped"] == 0
    assert outcome.rows.repeated == day["repeated"]
    assert "repeated keys" in outcome.summary


def test_clicks_logged_again_with_their_impression_are_counted_as_lost(sample, tmp_path):
    """Some ad servers log an impression at once and again with its click."""
    folder = tmp_path / "again"
    for back in range(4):
        day = NEWEST - timedelta(days=back)
        click = [0, 0, 1, 0, 1, 1, 0]  # 3 repeats 1, 4 and 5 repeat 2, 6 repeats 0
        ids = [0, 1, 2, 3, 1, 2, 0]
        table = logs(7, impression_id=ids, click=click)
        (folder / f"dt={day}").mkdir(parents=True)
        pq.write_table(table, folder / f"dt={day}" / "part.parquet", row_group_size=4)
    source = {"kind": "parquet", "folder": str(folder)}
    outcome, _ = sample(spec_of(source=source))
    day = outcome.metrics["days"][str(NEWEST)]
    assert (day["written"], day["repeated"], day["repeated_positives"]) == (4, 3, 1)


WRONG = {
    "impression_id is null": {"impression_id": [0, None, 2, 3, 4, 5]},
    "time is not a time": {"time": ["2026-01-01", "soon", *["2026-01-01"] * 4]},
    "click is neither 0 nor 1": {"click": [0, 2, 0, 1, 0, 1]},
}


@pytest.mark.parametrize("reason", WRONG)
def test_unusable_rows_are_set_aside_with_the_reason(reason):
    block = parsed(logs(**WRONG[reason]))
    assert block.aside[REASON].to_pylist() == [reason]
    assert block.aside.num_rows + block.good.num_rows == 6
    assert block.aside["ad_id"].to_pylist() == ["a"]


def test_rows_unreadable_at_the_source_keep_their_reason():
    table = logs(
        6,
        click=[0, None, None, None, None, 1],
        **{
            REASON: pa.array([None, "line has 2 fields, not 5", *["broken"] * 3, None]),
            TEXT: pa.array([None, "1,2", "x", "y", "z", None]),
        },
    )
    block = parsed(table)
    assert block.good["impression_id"].to_pylist() == [0, 5]
    assert REASON not in block.good.column_names
    assert TEXT not in block.good.column_names
    assert block.aside[REASON].to_pylist() == ["line has 2 fields, not 5", *["broken"] * 3]
    assert block.aside[TEXT].to_pylist() == ["1,2", "x", "y", "z"]
    # No row of a block can be read, so the label is not the cause.
    nothing = parsed(table.slice(1, 4))
    assert (nothing.good.num_rows, nothing.aside.num_rows) == (0, 4)


def test_a_label_that_is_not_binary_stops_the_stage(sample):
    with pytest.raises(CorruptDataError, match=r"label 'click' is not binary: .*'yes'|'no'"):
        sample(spec_of(source={**SMALL, "faults": [f"labels_as_text@{NEWEST}"]}))


@pytest.mark.parametrize(
    ("blocks", "kind", "message"),
    [
        ({"source": {**SMALL, "faults": [f"empty_day@{NEWEST}"]}}, CorruptDataError, "is empty"),
        ({"source": {**SMALL, "faults": [f"missing_day@{NEWEST}"]}}, MissingDataError, "no day"),
        ({"label": {"column": "clicked"}}, MissingDataError, "column 'clicked' is missing"),
        ({"columns": {"user": "uid"}}, MissingDataError, "column 'uid' is missing"),
        ({"features": {"p": {"column": "p_click_true"}}}, CorruptDataError, "known only after"),
        ({"features": {"p": {"column": "win_price"}}}, CorruptDataError, "'win_price'"),
    ],
)
def test_impossible_nights_are_reported_in_one_line(sample, blocks, kind, message):
    with pytest.raises(kind, match=message) as caught:
        sample(spec_of(**blocks))
    assert isinstance(caught.value, DataError)
    assert "\n" not in str(caught.value)
    assert " → " in str(caught.value)


def test_rows_with_null_keys_are_quarantined_and_counted(sample):
    outcome, folder = sample(spec_of(source={**SMALL, "faults": [f"null_keys@{NEWEST}:0.1"]}))
    day = outcome.metrics["days"][str(NEWEST)]
    assert 40 < day["quarantined"] < 130
    assert day["read"] == sum(
        day[name] for name in ("written", "quarantined", "repeated", "dropped")
    )
    aside = pq.ParquetFile(folder / f"quarantine/dt={NEWEST}/part-00000.parquet").read()
    assert aside[REASON].to_pylist() == ["impression_id is null"] * day["quarantined"]
    assert outcome.metrics["quarantine"] == {"impression_id is null": day["quarantined"]}
    assert "impression_id is null" in outcome.summary


@pytest.mark.slow
@settings(max_examples=15)
@given(
    bad=st.sets(st.integers(0, 59), max_size=40),
    cut=st.sets(st.integers(0, 59), max_size=20),
    again=st.sets(st.integers(0, 59), max_size=20),
    rate=st.sampled_from([1.0, 0.5]),
)
def test_row_counts_add_up_for_any_damaged_csv(sample, tmp_path, bad, cut, again, rate):
    folder = tmp_path / "logs"
    folder.mkdir(exist_ok=True)
    days = [NEWEST - timedelta(days=back) for back in range(4)]
    for day in days:
        lines = [f"{at},{day} 10:00:00,u{at % 5},a,{at % 2}" for at in range(60)]
        # The click is not a number in fewer than half of the readable rows.
        for at in [row for row in sorted(bad) if row not in cut][: (60 - len(cut)) // 2 - 1]:
            lines[at] = lines[at].rsplit(",", 1)[0] + ",maybe"
        lines += [lines[at] for at in sorted(again)]
        for at in cut:
            lines[at] = lines[at][:3]
        text = "\n".join(["impression_id,time,user_id,ad_id,click", *lines, ""])
        (folder / f"{day}.csv").write_text(text)
    outcome, out = sample(
        spec_of(
            source={"kind": "csv", "folder": str(folder), "types": {"click": "int"}},
            sampling={"negative_rate": rate},
        )
    )
    for day in days:
        count = outcome.metrics["days"][str(day)]
        assert count["read"] == 60 + len(again)
        assert count["read"] == sum(
            count[name] for name in ("written", "quarantined", "repeated", "dropped")
        )
        path = out / f"quarantine/dt={day}/part-00000.parquet"
        aside = pq.ParquetFile(path).metadata.num_rows if path.exists() else 0
        assert aside == count["quarantined"] >= len(cut)
    written = sum(len(rows_of(out, split)) for split in ("train", "validate", "evaluate"))
    assert written == outcome.rows.written
    assert sum(outcome.metrics["quarantine"].values()) == outcome.rows.quarantined


def test_logged_weights_are_multiplied_with_sampling_weights():
    rows = 4000
    weight = np.where(np.arange(rows) % 2, 0.25, 3.0)
    weight[:4] = [0, float("nan"), -1, 2e6]
    columns = {"weight": "w"}
    table = logs(rows, w=weight, click=[at % 5 == 0 for at in range(rows)])
    block = parsed(table, columns=columns)
    assert block.aside["impression_id"].to_pylist() == [1, 2, 3]
    assert set(block.aside[REASON].to_pylist()) == {"w is not a weight"}
    spec = spec_of(columns=columns, sampling={"negative_rate": 0.5})
    sampled = draw(block.good, spec, "evaluate", [])
    assert sampled["impression_id"].to_pylist() == list(range(4, rows))  # 0 is left out
    assert sampled[WEIGHT].to_pylist() == weight[4:].tolist()
    train = draw(block.good, spec, "train", [])
    at = np.asarray(train["impression_id"])
    assert np.array_equal(train[WEIGHT], np.where(at % 5 == 0, weight[at], 2 * weight[at]))
    assert np.asarray(train[WEIGHT]).sum() == pytest.approx(weight[4:].sum(), rel=0.1)


def test_a_weight_column_is_rejected_as_feature():
    with pytest.raises(ValueError, match=r"reads 'w', which is columns.weight"):
        spec_of(columns={"weight": "w"}, features={"w": {}})
    with pytest.raises(MissingDataError, match="column 'w' is missing"):
        parsed(logs(), columns={"weight": "w"})


def test_days_with_open_labels_are_not_used(sample):
    spec = spec_of(
        label={
            "column": "conversion",
            "given": "click",
            "event_time": "conversion_time",
            "attribution_days": 2,
        }
    )
    outcome, folder = sample(spec)
    assert max(outcome.metrics["days"]) == str(NEWEST - timedelta(days=2))
    rows = rows_of(folder, "train")
    assert set(rows["click"].to_pylist()) == {1}
    assert outcome.rows.dropped == outcome.rows.read - outcome.rows.written
    waited = pc.subtract(
        rows["conversion_time"].cast(pa.int64()), rows["time"].cast(pa.int64())
    ).to_pylist()
    late = [w is not None and w > 2 * 86_400_000_000 for w in waited]
    label = rows[LABEL].to_pylist()
    assert [x == 1 for x in label] == [
        c == 1 and not after for c, after in zip(rows["conversion"].to_pylist(), late, strict=True)
    ]


def test_a_window_longer_than_the_logs_is_rejected(sample, kuairand_folder):
    spec = spec_of(
        source={"kind": "kuairand", "folder": str(kuairand_folder)},
        label={"column": "is_click"},
        features={"tab": {"column": "tab"}},
        window={"train_days": 20, "validate_days": 1, "evaluate_days": 1},
    )
    with pytest.raises(MissingDataError, match=r"window of 22 days starts on .* 2022-04-25"):
        sample(spec, date(2022, 5, 8))
    with pytest.raises(MissingDataError, match=r"days are missing: 2022-05-09.*"):
        sample(spec.model_copy(update={"window": spec_of().window}), date(2022, 5, 10))


def test_the_fingerprint_of_unchanged_logs_is_stable(tmp_path, kuairand_folder):
    spec = spec_of(source={"kind": "kuairand", "folder": str(kuairand_folder)})
    night = Night.of(spec, date(2022, 5, 8))
    assert fingerprint(spec, night, tmp_path) == fingerprint(spec, night, tmp_path)
