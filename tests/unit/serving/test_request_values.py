"""Context features without Arrow equal the transform's values, whatever the JSON holds."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from nightbid.config.load import parse_pipeline
from nightbid.features.fitted import Definition, FittedFeatures
from nightbid.features.learn import learn
from nightbid.serving.json_values import WRONG, from_json
from nightbid.serving.request_lookup import RequestLookup
from nightbid.serving.request_values import UnusualRequestError

SPEC = """
pipeline: t
source: {kind: parquet, folder: logs}
columns: {time: time, user: site, anonymous: [never seen, "0"]}
features:
  site: {min_count: 1, oov_buckets: 7}
  number_as_value: {transform: vocabulary, column: visits, min_count: 1, oov_buckets: 3}
  hashed: {transform: hash, column: site, buckets: 1000}
  crossed: {transform: cross, columns: [visits, site], buckets: 1000}
  rate: {transform: target_rate, columns: [site, visits], strength: 5}
  volume: {transform: count, columns: [site]}
  visits: {transform: numeric, log1p: true, clip: [-5, 1e6], missing_indicator: true}
  price: {transform: quantile_buckets, buckets: 4}
  price_scaled: {transform: numeric, column: price, scale: robust}
  small: {transform: buckets, boundaries: [0, 1, 5]}
  tags: {transform: bag, length: 3}
  tags_in_text: {transform: bag, column: text, separator: "|", length: 2}
  newest: {transform: sequence, column: tags, length: 2}
"""
SCHEMA = pa.schema(
    {
        "site": pa.string(), "visits": pa.int64(), "price": pa.float64(), "small": pa.int8(),
        "tags": pa.list_(pa.string()), "text": pa.large_string(),
        "time": pa.timestamp("us", "UTC"), "ad": pa.string(),
    }
)  # fmt: skip
VALUES = {
    "site": [None, "", "a", "b", "ü", "\u0000", "never seen", "nan", " a", "日本語の名前", "0"],
    "visits": [None, 0, 1, -1, 2**53 - 1, 2**53, 2**62, 5.0, -0.0, 10**6],
    "price": [None, 0, -0.0, 0.5, 1e39, -1e39, 3, 1e-320, 1e308],
    "small": [None, 0, -128, 127, 1, 5.0],
    "tags": [None, [], ["a"], ["a", None, "", "x"], ["ü"] * 9, ["q", "a"]],
    "text": [None, "", "a", "a|b|c", "|a", "||"],
    "time": ["2026-01-03T10:00:00Z", "2026-01-01T00:00:00+02:00", "2029-05-05T23:59:59.999999"],
}  # fmt: skip


@pytest.fixture(scope="module")
def fitted() -> FittedFeatures:
    draw = np.random.default_rng(0)
    rows = {
        name: [values[at] for at in draw.integers(0, len(values), 400)]
        for name, values in VALUES.items()
    }
    columns = {name: from_json(values, SCHEMA.field(name).type) for name, values in rows.items()}
    columns["nb_time"] = columns["time"]
    columns["nb_label"] = pa.array(draw.integers(0, 2, 400).astype(np.float32))
    columns["nb_weight"] = pa.array(np.ones(400, np.float32))
    definition = Definition.of(parse_pipeline(SPEC, "t"))
    table = pa.table(columns)
    user = definition.user_column
    return FittedFeatures.fit(definition, learn(definition.features, table, train=True, user=user))


def test_context_values_of_every_type_give_the_inputs_of_the_transform(fitted, draw):
    lookup = RequestLookup(fitted, SCHEMA)
    for _ in range(300):
        context = {name: values[draw.integers(len(values))] for name, values in VALUES.items()}
        given = {name: msgspec.Raw(json.dumps(value).encode()) for name, value in context.items()}
        inputs = lookup.inputs(given, [msgspec.Raw(b'{"ad":"x"}')])
        row = {n: from_json([v], SCHEMA.field(n).type) for n, v in context.items()}
        expected = fitted.transform(pa.table(row))
        for name, values in inputs.items():
            column = expected[name].combine_chunks()
            if pa.types.is_fixed_size_list(column.type):
                column = column.flatten()
            assert values.tobytes() == column.to_numpy().tobytes(), (name, context)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("site", b"5"), ("site", b'["a"]'), ("visits", b'"5"'), ("visits", b"true"),
     ("visits", b"9223372036854775808"), ("visits", b"1.5"), ("small", b"128"), ("price", b'"1"'),
     ("price", b"9007199254740993"),
     ("tags", b'"a"'), ("tags", b"[5]"), ("text", b'["a"]'), ("time", b"5")],
)  # fmt: skip
def test_context_values_of_another_type_fall_back_to_the_checked_reader(fitted, name, wrong):
    lookup = RequestLookup(fitted, SCHEMA)
    given = {
        column: msgspec.Raw(json.dumps(values[1]).encode()) for column, values in VALUES.items()
    }
    with pytest.raises((UnusualRequestError, *WRONG)):
        lookup.inputs({**given, name: msgspec.Raw(wrong)}, [msgspec.Raw(b'{"ad":"x"}')])
