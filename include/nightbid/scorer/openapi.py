"""The scorer's interface as an OpenAPI 3.1 document, with the columns of the served model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from nightbid.scorer.arrow_rows import MEDIA_TYPE
from nightbid.scorer.auction import MOST_SLOTS, SETTINGS
from nightbid.scorer.rows import MOST_ROWS
from nightbid.serving.json_values import LISTS

Schema = dict[str, Any]
CHAMPION = {
    "pipeline": "string", "number": "integer", "run_id": "string", "night": "string",
    "bundle": "string", "architecture": "string",
}  # fmt: skip
RANKED = {
    "row": "integer", "probability": "number", "bid": "number", "ecpm": "number",
    "price": "number",
}  # fmt: skip
PREDICTED = {"probability": "probabilities", "value": "values"}
"""Output of a model → key of the predictions in a response."""
ARROW = {
    "/score": "An uncompressed Arrow IPC stream of rows; the schema's metadata may hold `context`.",
    "/rank": "Like /score. Column `nb_bid` has the bid of each row, the optional `nb_id` its id; "
    "the schema's metadata may hold `auction` as JSON.",
}
"""Path → description of its Arrow body."""
ASKED = (401, 408, 413, 422, 429, 503)
"""Error statuses of requests with a body."""


def document(columns: pa.Schema | None, version: str, output: str = "probability") -> Schema:
    """Describe every path.

    Args:
        columns: Names and types of the columns that the served model reads; None if none serves.
        version: Version of Nightbid.
        output: Output of the served model: `probability` or `value`.
    """
    predicted = _PROBABILITY if output == "probability" else {"type": "number", "minimum": 0}
    error = {"$ref": "#/components/responses/Error"}
    answers = {
        "/score": _object(champion=_ref("Champion"), **{PREDICTED[output]: _list(predicted)}),
        "/rank": _object(champion=_ref("Champion"), ranking=_list(_ref("Ranked"))),
    }
    summaries = {
        "/score": f"One {output} per row, in order.",
        "/rank": "Candidates in order of eCPM, with their prices.",
    }
    bodies: Schema = {
        path: {"application/json": {"schema": _ref(path[1:].title())}} for path in answers
    }
    for path, description in ARROW.items():
        stream = {"type": "string", "format": "binary", "description": description}
        bodies[path][MEDIA_TYPE] = {"schema": stream}
    paths: Schema = {
        path: {
            "post": {
                "summary": summaries[path],
                "requestBody": {
                    "required": True,
                    "content": bodies[path],
                },
                "responses": {
                    "200": _json(summaries[path], answer),
                    **{str(status): error for status in ASKED},
                },
            }
        }
        for path, answer in answers.items()
    }
    state = _object(champion=_or_null(_ref("Champion")), trouble=_or_null({"type": "string"}))
    health = {**state["properties"], "status": {"type": "string"}}
    health |= {
        name: {"type": "integer", "minimum": 0}
        for name in ("processes", "requests", "rows", "refused")
    }
    texts = {"champion": _ref("Champion"), "columns": {"type": "object"}}
    reads: dict[str, tuple[str, Schema, tuple[int, ...]]] = {
        "/columns": ("Columns that the model reads, and their types.", _object(**texts),
                     (401, 429, 503)),
        "/ready": ("Whether a champion serves in every process.", state, (503,)),
        "/health": ("The champion in service, and current problems.", _object(**health), ()),
        "/shadow": ("Comparison of champion and shadow on the same requests.",
                    _object(shadow={"type": "string"}, comparisons=_list({"type": "object"})),
                    (401, 404, 429)),
        "/openapi.json": ("This document.", {"type": "object"}, (401, 429)),
    }  # fmt: skip
    for path, (summary, answer, refused) in reads.items():
        paths[path] = {"get": _read(summary, _json(summary, answer), refused)}
    summary = "Metrics of all processes in the Prometheus text format."
    metrics = {"description": summary, "content": {"text/plain": {"schema": {"type": "string"}}}}
    paths["/metrics"] = {"get": _read(summary, metrics, (401, 429))}
    for path in ("/health", "/ready"):
        paths[path]["get"]["security"] = []
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Nightbid scorer",
            "version": version,
            "description": f"Calibrated {PREDICTED[output]} of raw rows, by the champion of a"
            " pipeline.",
        },
        "paths": paths,
        "security": [{"token": []}],
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "responses": {
                "Error": _json(
                    "One line: what was wrong, where, and what to do.",
                    _object(error={"type": "string"}),
                )
            },
            "schemas": {**_requests(columns or ()), **_named()},
        },
    }


def json_schema(kind: pa.DataType) -> Schema:
    """Return the JSON Schema of a column's values, without null."""
    if pa.types.is_dictionary(kind):
        return json_schema(kind.value_type)
    if pa.types.is_boolean(kind):
        return {"type": "boolean"}
    if pa.types.is_integer(kind):
        most = 2 ** (kind.bit_width - (not pa.types.is_unsigned_integer(kind))) - 1
        least = 0 if pa.types.is_unsigned_integer(kind) else -most - 1
        return {"type": "integer", "minimum": least, "maximum": most}
    if pa.types.is_floating(kind):
        return {"type": "number"}
    if pa.types.is_decimal(kind):
        return {"type": ["number", "string"]}
    if pa.types.is_timestamp(kind):
        return {"type": "string", "format": "date-time"}
    if pa.types.is_date(kind):
        return {"type": "string", "format": "date"}
    if any(test(kind) for test in LISTS):
        return _list(_or_null(json_schema(kind.value_type)))
    if pa.types.is_null(kind):
        return {}
    return {"type": "string"}


_PROBABILITY = {"type": "number", "minimum": 0, "maximum": 1}


def _requests(columns: Iterable[pa.Field]) -> Schema:
    row = {
        "type": "object",
        "description": "Columns of the logs. Values that all rows share may be in `context`.",
        "properties": {column.name: _or_null(json_schema(column.type)) for column in columns},
    }
    shared = {"context": _ref("Row"), "rows": {**_list(_ref("Row")), "maxItems": MOST_ROWS}}
    numbers = {name: {"type": "number", "minimum": 0} for name in SETTINGS[1:4]}
    auction = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "pricing": {"enum": ["gsp", "vcg", "first"]},
            **numbers,
            "slots": {**_list({"type": "number"}), "minItems": 1, "maxItems": MOST_SLOTS},
        },
    }
    ids = {"anyOf": [_list({"type": "string"}), _list({"type": "integer"})]}
    bids = _list({"type": "number", "minimum": 0})
    closed: Schema = {"type": "object", "additionalProperties": False}
    return {
        "Row": row,
        "Score": {**closed, "required": ["rows"], "properties": shared},
        "Rank": {
            **closed,
            "required": ["rows", "bids"],
            "properties": {**shared, "bids": bids, "ids": ids, "auction": auction},
        },
    }


def _named() -> Schema:
    ranked: Schema = {name: {"type": kind} for name, kind in RANKED.items()}
    return {
        "Champion": _object(**{name: {"type": kind} for name, kind in CHAMPION.items()}),
        "Ranked": _object(id={"type": ["string", "integer"]}, **ranked),
    }


def _read(summary: str, answer: Schema, refused: tuple[int, ...]) -> Schema:
    error = {"$ref": "#/components/responses/Error"}
    return {
        "summary": summary,
        "responses": {"200": answer, **{str(status): error for status in refused}},
    }


def _json(description: str, schema: Schema) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}
