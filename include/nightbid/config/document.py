"""JSON schema of the pipeline YAML for editors, generated from the typed models.

The description of a key is the docstring below its field.
"""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel

from nightbid.config.pipeline import PipelineSpec


def json_schema() -> dict[str, Any]:
    """Get the JSON schema (2020-12) of a pipeline YAML, with a description of each key."""
    schema = PipelineSpec.model_json_schema()
    document = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    blocks = {block.__name__: block for block in blocks_of(PipelineSpec)}
    for name, definition in [("PipelineSpec", schema), *schema["$defs"].items()]:
        block = blocks.get(name)
        for key, meaning in meanings_of(block).items() if block else ():
            if key in definition["properties"]:
                definition["properties"][key]["description"] = meaning
    # Two shorthands of the YAML: a bare word names a transform, and a block without `transform`
    # is a vocabulary.
    features = schema["properties"]["features"]
    place = "additionalProperties" if "additionalProperties" in features else "patternProperties"
    inner = features[place]
    feature = inner if place == "additionalProperties" else next(iter(inner.values()))
    words = list(feature["discriminator"]["mapping"])
    long = dict(feature)
    feature.clear()
    feature["anyOf"] = [{"enum": words}, {"anyOf": long["oneOf"]}]
    schema["$defs"]["Vocabulary"]["required"] = [
        field for field in schema["$defs"]["Vocabulary"].get("required", ()) if field != "transform"
    ]
    return document


def schema_text() -> str:
    """Get the text of the schema file."""
    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"


def blocks_of(root: type[BaseModel]) -> list[type[BaseModel]]:
    """List a model and, recursively, the models of its fields, in the order of discovery."""
    blocks: list[type[BaseModel]] = [root]
    for block in blocks:
        for field in block.model_fields.values():
            blocks += [model for model in models_in(field.annotation) if model not in blocks]
    return blocks


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models in a type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    for inner in get_args(annotation):
        yield from models_in(inner)


def purpose_of(block: type[BaseModel]) -> str:
    """Get the docstring of a block."""
    return inspect.cleandoc(block.__doc__ or "")


@cache
def meanings_of(block: type[BaseModel]) -> dict[str, str]:
    """Get the docstring below each field on one line, including the fields of base classes."""
    meanings: dict[str, str] = {}
    for base in reversed(block.__mro__):
        if not issubclass(base, BaseModel) or base.__module__.startswith("pydantic"):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
                and isinstance(text.value.value, str)
            ):
                meanings[field.target.id] = " ".join(text.value.value.split())
    return meanings
