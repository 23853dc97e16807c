"""Features of earlier rows: rates, counts and recent items use nothing that is later."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nightbid.config.load import parse_pipeline
from nightbid.features.fitted import Definition, FittedFeatures
from nightbid.features.learn import learn
from nightbid.features.mapped import KeyedRows

from .columns import DAY, column_values, with_column


def test_a_target_rate_uses_only_earlier_days(definition, make_rows):
    """The expected values are computed by hand for two earlier days and one key."""
    start = 20_000 * DAY
    time = pa.array([start, start + DAY, start + 2 * DAY]).cast(pa.timestamp("us", "UTC"))
    rows = make_rows(3)
    for name, values in {
        "served": time, "nb_time": time, "site": pa.array(["a", "b", "a"]),
        "nb_label": pa.array([1.0, 0.0, 1.0], pa.float32()),
        "nb_weight": pa.array([1.0, 4.0, 1.0], pa.float32()),
    }.items():  # fmt: skip
        rows = with_column(rows, name, values)
    fitted = FittedFeatures.fit(definition, learn(definition.features, rows, train=True))
    overall, strength = 1 / 5, 5
    expected = math.log((1 + strength * overall) / (overall * (1 + strength)))
    assert column_values(fitted, rows, "site_rate") == pytest.approx(
        [0, math.log(strength / (0 + strength)), expected]
    )
    assert column_values(fitted, rows, "site_rows") == pytest.approx([0, 0, math.log1p(1 / 2)])


def test_features_of_a_day_do_not_depend_on_that_day_or_later(definition, make_rows):
    """No label leaks: rates and counts use only earlier days."""
    rows = make_rows(1200, seed=3)
    days = np.asarray(rows["nb_time"].cast(pa.int64())) // DAY
    moved = 0
    for day in np.unique(days):
        future = np.flatnonzero(days >= day)
        order = np.arange(len(rows))
        order[future] = np.random.default_rng(int(day)).permutation(future)
        changed = rows
        for name in ("site", "number", "nb_label"):
            changed = with_column(changed, name, rows[name].combine_chunks().take(pa.array(order)))
        labels = np.asarray(changed["nb_label"]).copy()
        labels[future] = 1 - labels[future]
        changed = with_column(changed, "nb_label", pa.array(labels))
        # The transformed rows are the same; the history of that day changes.
        transformed = [
            FittedFeatures.fit(definition, learn(definition.features, table, train=True))
            .transform(rows)
            .drop_columns(["lately"])  # up to the row's time, see below
            for table in (rows, changed)
        ]
        past = pa.array(days <= day)
        assert transformed[0].filter(past).equals(transformed[1].filter(past))
        moved += not transformed[0].equals(transformed[1])
    assert moved == len(np.unique(days)) - 1


@pytest.mark.parametrize("rows_that_count", ["positive", "all"])
def test_recent_sequences_do_not_depend_on_later_rows(make_rows, rows_that_count):
    definition = Definition.of(
        parse_pipeline(
            "pipeline: t\ncolumns: {time: served}\nfeatures:\n  site: vocabulary\n  lately: {"
            "transform: recent, column: site, by: [number], vocabulary: site, length: 5,"
            f" delay_seconds: 0, rows: {rows_that_count}}}",
            "t",
        )
    )
    rows = make_rows(600, seed=11)
    times = np.asarray(rows["served"].cast(pa.int64()))
    moved = 0
    for at in (0, 50, 299, 450, 599):
        future = np.flatnonzero(times >= times[at])
        order = np.arange(600)
        order[future] = np.random.default_rng(at).permutation(future)
        changed = rows
        for name in ("nb_label", "site", "number"):
            changed = with_column(changed, name, rows[name].combine_chunks().take(pa.array(order)))
        # The history changes at that moment; the transformed row keeps its key.
        requests = with_column(changed, "number", rows["number"])
        transformed = [
            FittedFeatures.fit(definition, learn(definition.features, table, train=True)).transform(
                requests
            )["lately"]
            for table in (rows, changed)
        ]
        past = pa.array(times <= times[at])
        assert transformed[0].filter(past).equals(transformed[1].filter(past))
        moved += not transformed[0].equals(transformed[1])
    assert moved >= 3


def test_a_recent_sequence_lists_earlier_known_rows_of_the_key(definition, make_rows):
    """A sequence leaves out the own row and unknown outcomes, and keeps the last entries."""
    minute = 60_000_000
    start = 20_000 * DAY + 23 * 60 * minute
    minutes = [0, 5, 20, 20, 40, 41, 55, 130]
    sites = ["a", "b", None, "c", "a", "d", "b", "a"]
    clicks = [1, 1, 1, 1, 0, 1, 1, 1]
    users = [7, 7, 7, 7, 7, 8, 7, 7]
    time = pa.array([start + offset * minute for offset in minutes]).cast(pa.timestamp("us", "UTC"))
    rows = make_rows(8)
    for name, values in {
        "served": time, "nb_time": time, "site": pa.array(sites), "number": pa.array(users),
        "nb_label": pa.array(clicks, pa.float32()),
    }.items():  # fmt: skip
        rows = with_column(rows, name, values)
    fitted = FittedFeatures.fit(definition, learn(definition.features, rows, train=True))
    ids = dict(zip(sites, column_values(fitted, rows, "site"), strict=True))
    a, b, c = ids["a"], ids["b"], ids["c"]
    # A click is known ten minutes later; a label of 0 never counts.
    assert column_values(fitted, rows, "lately") == [
        [0, 0, 0, 0],
        [0, 0, 0, 0],
        [a, b, 0, 0],
        [a, b, 0, 0],
        [a, b, c, 0],
        [0, 0, 0, 0],
        [a, b, c, 0],
        [a, b, c, b],
    ]
    # The last two are at 00:35 and 01:10 of the next day, after rows from 23:00 to 23:55.
    by_day = column_values(fitted, rows, "before_today")
    assert by_day[:6] == [[0] * 6] * 6
    assert by_day[7] == [a, b, c, 0, 0, 0]


def test_a_target_rate_ignores_labels_that_are_not_final(definition, make_rows):
    rows = make_rows(600, seed=4)
    late = definition.model_copy(update={"lag_days": 2})
    statistics = learn(definition.features, rows, train=True)
    days = np.asarray(rows["nb_time"].cast(pa.int64())) // DAY
    known = np.asarray(FittedFeatures.fit(late, statistics).transform(rows)["site_rate"])
    assert (known[days <= days.min() + 2] == 0).all()
    assert (known[days == days.min() + 3] != 0).any()


USERS = """
pipeline: t
columns: {time: served, user: site, anonymous: [d]}
features:
  site: {min_count: 1}
  rate: {transform: target_rate, columns: [site], strength: 5}
  rows: {transform: count, columns: [number, site]}
  lately: {transform: recent, column: number, by: [site], vocabulary: number, length: 4}
  number: {min_count: 1}
"""


@pytest.mark.parametrize("spelled", [None, "", "d", "00000000-0000-0000-0000-000000000000"])
def test_rows_without_a_user_have_the_history_of_an_unknown_one(make_rows, spelled):
    """They teach no history, and read none: as if they were of users never seen before."""
    rows = make_rows(400, seed=5)
    sites = np.asarray(rows["site"].to_pylist(), object)
    anonymous = np.flatnonzero(sites == "b")
    sites[anonymous] = spelled
    rows = with_column(rows, "site", pa.array(sites.tolist(), pa.string()))
    definition = Definition.of(parse_pipeline(USERS, "t"))

    def fitted(table: pa.Table) -> FittedFeatures:
        user = definition.user_column
        return FittedFeatures.fit(
            definition, learn(definition.features, table, train=True, user=user)
        )

    learned = fitted(rows)
    known = rows.take(pa.array(np.setdiff1d(np.arange(400), anonymous)))
    for name in ("rate", "rows", "lately"):
        history = fitted(known).learned[name].history
        assert learned.learned[name].history.equals(history)
    inputs = learned.transform(rows)
    new = learned.transform(with_column(rows, "site", pa.array(["new user"] * 400)))
    for name in ("rate", "rows", "lately"):
        assert inputs[name].take(anonymous).equals(new[name].take(anonymous))
    assert set(inputs["site"].take(anonymous).to_pylist()) == {0}
    nobody = learned.transform(with_column(rows, "site", pa.nulls(400, pa.string())))
    assert inputs.take(anonymous).equals(nobody.take(anonymous))


def test_history_written_by_an_older_release_is_read(definition, make_rows, tmp_path):
    statistics = learn(definition.features, make_rows(800, seed=1, days=3), train=True)
    fitted = FittedFeatures.fit(definition, statistics)
    fitted.save(tmp_path)
    for path in (tmp_path / "history").glob("*.arrow"):
        # Older versions stored counts by day, and tokens as plain strings.
        pq.write_table(
            pa.concat_tables(statistics[path.stem].by_range()), path.with_suffix(".parquet")
        )
        path.unlink()
    rows = make_rows(300, seed=5, days=4)
    older = FittedFeatures.load(tmp_path)
    assert older.transform(rows).equals(fitted.transform(rows))
    assert older.documentation == fitted.documentation


@given(
    entries=st.lists(st.tuples(st.integers(0, 5), st.integers(-3, 3)), max_size=30),
    asked=st.lists(st.tuples(st.integers(0, 6), st.integers(-4, 4)), max_size=10),
    day=st.none() | st.integers(-4, 4),
)
def test_rows_before_a_time_match_a_linear_scan(entries, asked, day):
    """Requests are for one day, as in most files, or for several."""
    asked = asked if day is None else [(key, day) for key, _ in asked]
    known = np.array(sorted(entries), np.int64).reshape(-1, 2)
    asked_rows = np.array(asked, np.int64).reshape(-1, 2)
    rows = KeyedRows(known[:, 0].astype(np.uint64), known[:, 1])
    start, end = rows.before(asked_rows[:, 0].astype(np.uint64), asked_rows[:, 1])
    for (key, moment), first, last in zip(asked, start, end, strict=True):
        expected = [at for at, entry in enumerate(known) if entry[0] == key and entry[1] < moment]
        assert list(range(first, last)) == expected


def test_a_champion_takes_new_history_and_keeps_its_vocabulary(definition, make_rows):
    old = FittedFeatures.fit(
        definition, learn(definition.features, make_rows(400, seed=6, days=2), train=True)
    )
    new = FittedFeatures.fit(
        definition, learn(definition.features, make_rows(900, seed=7, days=4), train=True)
    )
    updated = old.with_history(new)
    rows = make_rows(200, seed=8, days=4)
    assert updated.transform(rows)["site"].equals(old.transform(rows)["site"])
    assert updated.transform(rows)["site_rate"].equals(new.transform(rows)["site_rate"])
