"""Rates, counts and recent items end where the row's local day begins."""

from __future__ import annotations

import msgspec
import numpy as np
import orjson
import pyarrow as pa
import pytest
from nightbid.config.load import parse_pipeline
from nightbid.features.fitted import Definition, FittedFeatures
from nightbid.features.learn import learn
from nightbid.serving.lookup import Lookup
from nightbid.serving.request_lookup import RequestLookup

SPEC = """
pipeline: t
source: {kind: parquet, folder: logs, time_zone: ZONE}
columns: {time: served}
features:
  site: {min_count: 1}
  site_rate: {transform: target_rate, columns: [site], strength: 5}
  site_rows: {transform: count, columns: [site]}
  before_today:
    {transform: recent, column: site, by: [site], vocabulary: site, length: 6, before: day}
"""
HISTORY = ("site_rate", "site_rows", "before_today")


@pytest.fixture(params=["Asia/Shanghai", "America/New_York"])
def zone(request) -> str:
    return request.param


def fit(zone: str, table: pa.Table) -> FittedFeatures:
    definition = Definition.of(parse_pipeline(SPEC.replace("ZONE", zone), "t"))
    return FittedFeatures.fit(
        definition, learn(definition.features, table, train=True, zone=definition.time_zone)
    )


def days(table: pa.Table, zone: str) -> np.ndarray:
    local = table["nb_time"].to_pandas().dt.tz_convert(zone)
    return local.dt.floor("D").dt.tz_localize(None).to_numpy()


def as_logged(table: pa.Table, zone: str) -> pa.Table:
    """Return the same rows with local times without a zone."""
    local = table["served"].to_pandas().dt.tz_convert(zone).dt.tz_localize(None)
    naive = pa.array(local.to_numpy()).cast(pa.timestamp("us"))
    return table.set_column(table.column_names.index("served"), "served", naive)


def test_history_features_ignore_labels_of_the_rows_local_day(make_rows, zone):
    table = make_rows(800)
    # The last whole local day overlaps two days of UTC.
    last = np.unique(days(table, zone))[-2]
    table = table.filter(pa.array(days(table, zone) <= last))
    newest = days(table, zone) == last
    flipped = np.where(newest, 1 - table["nb_label"].to_numpy(), table["nb_label"].to_numpy())
    other = table.set_column(
        table.column_names.index("nb_label"), "nb_label", pa.array(flipped.astype(np.float32))
    )
    judged = table.filter(pa.array(newest))
    known, unknown = (fit(zone, history).transform(judged) for history in (table, other))
    assert newest.any()
    for name in HISTORY:
        assert known[name].equals(unknown[name]), name
    # With days of UTC, the features would know some hours of that day.
    utc = [fit("UTC", history).transform(judged)["site_rate"] for history in (table, other)]
    assert not utc[0].equals(utc[1])
    # The features know all earlier days.
    before = fit(zone, table.filter(pa.array(~newest))).transform(judged)
    for name in HISTORY:
        assert known[name].equals(before[name]), name


def test_zoned_and_local_times_give_equal_features_offline_and_online(make_rows, zone):
    table = make_rows(300)
    fitted, local = fit(zone, table), as_logged(table, zone)
    once = fitted.transform(table)
    assert fitted.transform(local).equals(once)
    for rows in (table, local):
        looked_up = Lookup(fitted).inputs(rows.select(["site", "served"]))
        for name in ("site_rate", "site_rows"):
            np.testing.assert_array_equal(looked_up[name], once[name].to_numpy())
        schema = pa.schema([rows.schema.field("site"), rows.schema.field("served")])
        requests = RequestLookup(fitted, schema)
        for at in (0, 100, 299):
            one = {"site": rows["site"][at].as_py(), "served": rows["served"][at].as_py()}
            given = {name: msgspec.Raw(orjson.dumps(value)) for name, value in one.items()}
            served = {"served": given["served"]}
            row = msgspec.Raw(orjson.dumps({"site": one["site"]}))
            served_inputs = requests.inputs(served, [row])
            assert served_inputs["site_rate"][0] == once["site_rate"][at].as_py()
