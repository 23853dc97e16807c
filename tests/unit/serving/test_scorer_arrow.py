"""Rows as an Arrow IPC stream get the same scores as JSON, and no input is trusted."""

from __future__ import annotations

import json
import random

import numpy as np
import pyarrow as pa
import pytest
from nightbid.scorer import arrow_rows
from nightbid.serving.bundle import Bundle, read_columns

STREAM = {"content-type": arrow_rows.MEDIA_TYPE}


def written(table: pa.Table, **options: object) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as stream:
        stream.write_table(table, max_chunksize=64)
    return sink.getvalue().to_pybytes()


def test_arrow_requests_get_the_same_scores_as_json_bit_for_bit(night, scorer):
    scorer.promote(night, "first")
    raw = night.raw().slice(0, 500)

    def scores(table: pa.Table, size: int) -> list[float]:
        answer = scorer.http.post("/score", content=written(table), headers=STREAM)
        assert answer.status_code == 200, answer.text
        assert answer.json()["champion"]["run_id"] == "first"
        assert len(answer.json()["probabilities"]) == size
        return answer.json()["probabilities"]

    expected = scorer.score(raw).json()["probabilities"]
    assert scores(raw, 500) == expected
    assert scores(raw.slice(0, 0), 0) == []
    # The same values with other types, and a dictionary per batch.
    place = raw.column_names.index("ad_id")
    coded = raw.set_column(place, "ad_id", raw["ad_id"].dictionary_encode())
    depth = raw.column_names.index("session_depth")
    coded = coded.set_column(depth, "session_depth", raw["session_depth"].cast(pa.int16()))
    assert scores(coded, 500) == expected
    # The metadata holds what all rows share, once.
    one = raw.slice(0, 1).select(Bundle.load(night.folder("export")).columns).to_pylist()[0]
    ads = raw.select(["ad_id", "ad_category"]).slice(0, 50)
    context = json.dumps(one, default=lambda value: value.isoformat())
    body = f'{{"context": {context}, "rows": {json.dumps(ads.to_pylist())}}}'
    from_json = scorer.http.post("/score", content=body).json()["probabilities"]
    assert len(set(from_json)) > 10
    assert scores(ads.replace_schema_metadata({"context": context}), 50) == from_json
    repeated = pa.Table.from_pylist([{**one, **ad} for ad in ads.to_pylist()],
                                    schema=read_columns(night.folder("export")))  # fmt: skip
    assert scores(repeated, 50) == from_json
    # Without the column of the user, the rows have no user.
    absent = raw.drop_columns(["user_id"])
    assert scores(absent, 500) == scorer.score(absent).json()["probabilities"]


def test_unreadable_arrow_requests_are_rejected_in_one_line(night, scorer):
    scorer.promote(night, "first")
    raw = night.raw().slice(0, 20)
    depth = raw.column_names.index("session_depth")

    def refusal(body: bytes, status: int = 422, path: str = "/score") -> str:
        answer = scorer.http.post(path, content=body, headers=STREAM)
        assert answer.status_code == status, answer.text
        return answer.json()["error"]

    def with_depth(values: pa.Array) -> bytes:
        return written(raw.set_column(depth, "session_depth", values))

    assert "body: not Arrow" in refusal(b"{}")
    assert "body: not Arrow" in refusal(written(raw)[:500])
    assert "compressed buffers" in refusal(written(raw, compression="zstd"))
    assert "column 'ad_id' is missing" in refusal(written(raw.drop_columns(["ad_id"])))
    assert "string is not the type of 'session_depth', which is int32" in refusal(
        with_depth(pa.array(["2"] * 20))
    )
    assert "is not int32" in refusal(with_depth(pa.array([2**63 + 1] * 20, pa.uint64())))
    assert "double is not the type" in refusal(with_depth(pa.array([2.5] * 20)))
    assert "context: not JSON" in refusal(written(raw.replace_schema_metadata({"context": "{"})))
    assert "run_end_encoded" in refusal(
        with_depth(pa.RunEndEncodedArray.from_arrays(pa.array([20]), pa.array([1])))
    )
    many = pa.table({name: pa.nulls(20_000) for name in raw.column_names})
    assert "more than 16,384 rows" in refusal(written(many), 413)
    assert "more than 1,048,576 values" in refusal(
        written(
            raw.set_column(
                raw.column_names.index("interests"),
                "interests",
                pa.FixedSizeListArray.from_arrays(pa.nulls(20 << 20), 1 << 20),
            )
        ),
        413,
    )
    assert "column 'nb_bid' is missing" in refusal(written(raw), 422, "/rank")


def test_damaged_arrow_streams_do_not_crash_the_scorer(night, scorer):
    scorer.promote(night, "first")
    whole = written(night.raw().slice(0, 20))
    draw = random.Random(5)
    statuses = set()
    for _ in range(300):
        body = bytearray(whole)
        for _ in range(draw.choice([1, 1, 4])):
            body[draw.randrange(len(body))] = draw.choice([0, 255, draw.randrange(256)])
        answer = scorer.http.post("/score", content=bytes(body), headers=STREAM)
        statuses.add(answer.status_code)
        assert answer.status_code in (200, 413, 422), answer.text
        assert "\n" not in answer.text
    assert statuses >= {200, 422}
    assert "Traceback" not in scorer.log(), scorer.log()


@pytest.mark.parametrize(
    ("given", "logged", "same"),
    [
        (pa.string(), pa.large_string(), True),
        (pa.dictionary(pa.int8(), pa.string()), pa.string(), True),
        (pa.int8(), pa.float64(), True),
        (pa.float32(), pa.float64(), True),
        (pa.float64(), pa.float32(), False),
        (pa.string(), pa.binary(), False),
        (pa.bool_(), pa.int64(), False),
        (pa.timestamp("ms"), pa.timestamp("us"), True),
        (pa.timestamp("ms"), pa.timestamp("us", "UTC"), False),
        (pa.list_(pa.int32()), pa.large_list(pa.int64()), True),
        (pa.list_(pa.int32()), pa.list_(pa.string()), False),
    ],
)
def test_compatible_arrow_types_are_accepted_for_a_column(given, logged, same):
    assert arrow_rows.is_same_kind(given, logged) is same


def test_arrow_values_that_a_cast_would_change_are_rejected():
    columns = pa.schema([("price", pa.float64())])
    with pytest.raises(arrow_rows.CorruptDataError, match="'price' is not double"):
        arrow_rows.read(written(pa.table({"price": np.array([2**53 + 1, 5])})), columns)
