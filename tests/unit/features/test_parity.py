"""The serving path gives identical bits for one row or many, also on unusual rows."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from nightbid.config.load import parse_pipeline
from nightbid.features.fitted import Definition, FittedFeatures
from nightbid.features.learn import learn
from nightbid.serving.lookup import Lookup

SPEC = """
pipeline: t
features:
  a: {transform: numeric, column: x, log1p: true, missing_indicator: true}
  b: {transform: quantile_buckets, column: x, buckets: 5}
  c: {column: x, min_count: 1, oov_buckets: 7}
  d: {transform: hash, column: x, buckets: 1000}
  e: {transform: cross, columns: [x, y], buckets: 1000}
  f: {transform: target_rate, columns: [x]}
  g: {transform: count, columns: [x, y]}
  h: {transform: identity, column: x, size: 9}
  i: {transform: bag, column: x, length: 2, min_count: 1}
  j: {transform: text_ngrams, column: y, length: 4}
  k: {transform: hour, column: time}
  l: {transform: sequence, column: z, length: 3, min_count: 1}
  m: {transform: sequence, column: x, length: 2, vocabulary: c}
  n: {transform: function, function: text_length, columns: [y]}
  o: {transform: function, function: text_length, columns: [y], then: hash}
  p: {transform: age, column: time, since: x}
  q: {transform: day_of_week, column: x}
  r: {transform: buckets, column: x, boundaries: [-1, 0, 2.5, 9007199254740993]}
  s: {transform: bag, column: z, weights: w, length: 2, min_count: 1}
  t: {transform: bag, column: y, weights: w, length: 3, min_count: 1}
  u: {transform: recent, column: x, by: [y], vocabulary: c, length: 3}
  v: {transform: recent, column: x, by: [y, x], vocabulary: c, rows: all, before: day, length: 2}
  w: {transform: numeric, column: x, scale: robust, clip: [-5, 1000]}
"""
DEFINITION = Definition.of(parse_pipeline(SPEC, "t"))
TEXT = st.one_of(
    st.none(),
    st.text(max_size=6),
    st.sampled_from(["", " ", "nan", "inf", "-1e400", "3", "3.0", "9007199254740993", "a,b", "é"]),
)
COLUMNS = st.one_of(
    st.tuples(st.just(pa.float64()), st.just(st.one_of(st.none(), st.floats()))),
    st.tuples(
        st.just(pa.int64()),
        st.just(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.integers(-2, 9))),
    ),
    st.tuples(st.just(pa.string()), st.just(TEXT)),
    st.tuples(st.just(pa.binary()), st.just(st.one_of(st.none(), st.binary(max_size=5)))),
    st.tuples(st.just(pa.float32()), st.just(st.one_of(st.none(), st.floats(width=32)))),
    st.tuples(st.just(pa.uint64()), st.just(st.one_of(st.none(), st.integers(0, 2**64 - 1)))),
    st.tuples(st.just(pa.bool_()), st.just(st.one_of(st.none(), st.booleans()))),
)


@st.composite
def tables(draw) -> pa.Table:
    count = draw(st.integers(1, 12))
    kind, values = draw(COLUMNS)
    x = pa.array(draw(st.lists(values, min_size=count, max_size=count)), kind)
    if kind == pa.binary() and draw(st.booleans()):
        x = x.view(pa.string())  # as in a file whose schema says text
    y = draw(st.lists(TEXT, min_size=count, max_size=count))
    time = draw(st.lists(st.integers(0, 5 * 86_400), min_size=count, max_size=count))
    lists = draw(
        st.lists(st.one_of(st.none(), st.lists(TEXT, max_size=4)), min_size=count, max_size=count)
    )
    weights = draw(
        st.lists(
            st.one_of(st.none(), st.lists(st.one_of(st.none(), st.floats()), max_size=4)),
            min_size=count,
            max_size=count,
        )
    )
    labels = draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=count, max_size=count))
    served = pa.array([moment * 1_000_000 for moment in time]).cast(pa.timestamp("us", "UTC"))
    return pa.table(
        {
            "x": x,
            "y": pa.array(y, pa.string()),
            "time": served,
            "z": pa.array(lists, pa.list_(pa.string())),
            "w": pa.array(weights, pa.list_(pa.float64())),
            "nb_time": served,
            "nb_label": pa.array(labels, pa.float32()),
            "nb_weight": pa.array([1.0] * count, pa.float32()),
        }
    )


@settings(max_examples=30)
@given(rows=tables(), size=st.integers(1, 12))
def test_inputs_are_bit_identical_for_any_batch_size_and_encoding(rows, size):
    half = rows.slice(0, max(len(rows) // 2, 1))
    fitted = FittedFeatures.fit(DEFINITION, learn(DEFINITION.features, half, train=True))
    whole = fitted.transform(rows)
    parts = [fitted.transform(rows.slice(at, size)) for at in range(0, len(rows), size)]
    assert _bits(pa.concat_tables(parts)) == _bits(whole)
    # A server takes values that it has seen before from its cache and looks up the rest.
    lookup = Lookup(fitted)
    for _ in range(2):
        looked_up = [lookup.inputs(rows.slice(at, size)) for at in range(0, len(rows), size)]
        for name, values in looked_up[0].items():
            together = np.concatenate([values, *(batch[name] for batch in looked_up[1:])])
            assert together.tobytes() == _bits(whole.select([name]))[0], name
    # Beam's workers read strings as dictionaries.
    encoded = rows.set_column(1, "y", rows["y"].dictionary_encode())
    if rows["x"].type in (pa.string(), pa.binary()):
        encoded = encoded.set_column(0, "x", rows["x"].dictionary_encode())
    assert _bits(fitted.transform(encoded)) == _bits(whole)
    for name in ("a", "f", "g", "n", "p", "w"):
        assert all(math.isfinite(value) for value in whole[name].to_pylist())


def _bits(table: pa.Table) -> list[bytes]:
    buffers = []
    for column in table.columns:
        array = column.combine_chunks()
        flat = array.flatten() if pa.types.is_fixed_size_list(array.type) else array
        buffers.append(flat.to_numpy(zero_copy_only=False).tobytes())
    return buffers
