"""The request lookup returns the transform's own values, whatever it has seen before."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from nightbid.errors import NightbidError
from nightbid.night.champion import Champion
from nightbid.scorer.follow import SCORE, ServedBundle
from nightbid.scorer.rows import parse
from nightbid.serving.bundle import Bundle, read_columns
from nightbid.serving.json_values import to_json
from nightbid.serving.request_lookup import RequestLookup

OF_ADS = ["ad_id", "ad_category"]


@pytest.fixture(scope="module")
def bundle(night):
    return Bundle.load(night.folder("export"))


@pytest.fixture(scope="module")
def columns(night):
    return read_columns(night.folder("export"))


@pytest.fixture
def served(night, bundle, columns):
    champion = Champion.model_construct(number=1)
    return ServedBundle(champion, bundle, columns)


def request(context: dict, rows: list[dict]) -> bytes:
    return json.dumps({"context": context, "rows": rows}).encode()


def transformed(bundle, columns, body: bytes) -> dict[str, np.ndarray]:
    """Return the model inputs that featurization computes for a request's rows."""
    raw = parse(body, columns)
    position = pa.nulls(len(raw), pa.int32())  # used in training only, and not served
    return bundle.feed(bundle.fitted.transform(raw.append_column("position", position)))


def some(night, columns, draw, candidates: int) -> tuple[dict, list[dict]]:
    """Return the context of one user, and rows of ads."""
    raw = night.raw().select(columns.names)
    rows = json.loads(to_json(raw.take(draw.integers(0, len(raw), candidates + 1))))["rows"]
    context = {name: value for name, value in rows[0].items() if name not in OF_ADS}
    return context, [{name: row[name] for name in OF_ADS} for row in rows[1:]]


def test_request_inputs_equal_the_transform_bit_for_bit(night, bundle, columns, draw):
    lookup = RequestLookup(bundle.fitted, columns)
    odd = [
        {}, {"seconds_since_last_ad": None}, {"seconds_since_last_ad": -0.0}, {"time": None},
        {"seconds_since_last_ad": 7}, {"seconds_since_last_ad": 1e39}, {"interests": None},
        {"time": "1969-12-31T23:59:59.999999"}, {"time": "2026-01-09T01:30:00+02:00"},
        {"session_depth": 3.0}, {"user_id": None}, {"user_id": "nobody"}, {"interests": []},
        {"user_id": ""}, {"user_id": "00000000-0000-0000-0000-000000000000"},
    ]  # fmt: skip
    for at in range(39):
        context, rows = some(night, columns, draw, int(draw.integers(1, 40)))
        context.update(odd[at % len(odd)])
        if at % 3 == 0:  # another set of columns in the context
            rows = [{**row, "page_category": context["page_category"]} for row in rows]
            context.pop("page_category")
        if at % 5 == 0:
            rows[0]["ad_id"] = None
        body = request(context, rows)
        wire = SCORE.decode(body)
        inputs = lookup.inputs(wire.context, wire.rows)
        expected = transformed(bundle, columns, body)
        assert set(inputs) == set(expected)
        for name, values in inputs.items():
            assert values.dtype == expected[name].dtype
            assert values.shape == expected[name].shape
            assert values.tobytes() == expected[name].tobytes(), (name, at)


def test_repeated_requests_are_served_from_the_cache(night, bundle, columns, draw):
    lookup = RequestLookup(bundle.fitted, columns)
    context, rows = some(night, columns, draw, 30)
    wire = SCORE.decode(request(context, rows))
    lookup.inputs(wire.context, wire.rows)
    before = lookup.missed
    lookup.inputs(wire.context, wire.rows)
    # Floats and times seldom repeat, so they are not cached.
    assert lookup.missed - before <= 3


def test_values_of_another_type_are_rejected_even_when_equal_to_cached_ones(
    night, served, columns, draw
):
    context, rows = some(night, columns, draw, 3)
    context["session_depth"] = 1
    served.answer(request(context, rows))
    for name, wrong in (("session_depth", True), ("session_depth", "1"), ("time", "yesterday"),
                        ("seconds_since_last_ad", "7"), ("user_id", 5)):  # fmt: skip
        with pytest.raises(NightbidError, match=f"is not a value of '{name}'"):
            served.answer(request({**context, name: wrong}, rows))
    with pytest.raises(NightbidError, match=r"rows\[1\]: column 'ad_category' is missing"):
        served.answer(request(context, [rows[0], {"ad_id": rows[1]["ad_id"]}]))
    with pytest.raises(NightbidError, match=r"rows\[1\]: 5 is not an object"):
        served.answer(request(context, [rows[0], 5]))


def test_scores_do_not_depend_on_which_columns_the_context_holds(
    night, served, bundle, columns, draw
):
    context, rows = some(night, columns, draw, 20)
    rows[3]["user_id"] = "u-another"
    body = request(context, rows)
    whole = request({}, [{**context, **row} for row in rows])
    expected = bundle.score(parse(body, columns))
    assert len(np.unique(expected)) > 5
    for content in (body, whole):
        assert served.answer(content).tolist() == expected.tolist()
    assert served.newly_unprepared() == 2
    served.answer(request(context, rows[:3]))
    assert served.newly_unprepared() == 0


def test_the_lookup_gives_up_on_rows_that_never_repeat(night, bundle, columns, draw):
    lookup = RequestLookup(bundle.fitted, columns, capacity=40)

    def ask() -> None:
        context, rows = some(night, columns, draw, 25)
        body = request(context, [{**row, "bid": float(draw.random())} for row in rows])
        wire = SCORE.decode(body)
        inputs = lookup.inputs(wire.context, wire.rows)
        for name, values in transformed(bundle, columns, body).items():
            assert values.tobytes() == inputs[name].tobytes(), name

    ask()
    with pytest.raises(NightbidError, match="seldom repeat"):
        ask()


def test_a_full_cache_is_emptied_and_inputs_stay_correct(night, bundle, columns, draw):
    lookup = RequestLookup(bundle.fitted, columns, capacity=40)
    for _ in range(12):
        context, rows = some(night, columns, draw, 25)
        body = request(context, rows)
        wire = SCORE.decode(body)
        inputs = lookup.inputs(wire.context, wire.rows)
        for name, values in transformed(bundle, columns, body).items():
            assert values.tobytes() == inputs[name].tobytes(), name
