"""The pipeline YAML described from its own types: a JSON schema for editors, a page for people.

A key's meaning is the docstring below its field, where the code says it too.
"""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel

from nightbid.config.pipeline import PipelineSpec


def json_schema() -> dict[str, Any]:
    """JSON schema (2020-12) of a pipeline YAML, with what each key means."""
    schema = PipelineSpec.model_json_schema()
    found = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    blocks = {block.__name__: block for block in _blocks(PipelineSpec)}
    for name, each in [("PipelineSpec", schema), *schema["$defs"].items()]:
        block = blocks.get(name)
        for key, meaning in _meanings(block).items() if block else ():
            if key in each["properties"]:
                each["properties"][key]["description"] = meaning
    # Two shorthands of the YAML: a bare word, and a block that leaves the transform to be the
    # default one.
    features = schema["properties"]["features"]
    place = "additionalProperties" if "additionalProperties" in features else "patternProperties"
    inner = features[place]
    feature = inner if place == "additionalProperties" else next(iter(inner.values()))
    words = list(feature["discriminator"]["mapping"])
    long = dict(feature)
    feature.clear()
    feature["anyOf"] = [{"enum": words}, {"anyOf": long["oneOf"]}]
    schema["$defs"]["Vocabulary"]["required"] = [
        each for each in schema["$defs"]["Vocabulary"].get("required", ()) if each != "transform"
    ]
    return found


def schema_text() -> str:
    """The schema as a file."""
    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"


def reference() -> str:
    """Every key of the YAML as Markdown: a table per block, in the order they are met."""
    parts = [
        "# The pipeline YAML, key by key\n\nMade by `make schema` from the typed models in"
        " `include/nightbid/config/`; a test holds it fresh. For completion and checks in an"
        " editor, begin a YAML with"
        " `# yaml-language-server: $schema=../../docs/pipeline.schema.json`.\n\nAny key can be set"
        " for one run: `--set train.epochs=2`, or in the trigger form."
    ]
    for block in _blocks(PipelineSpec):
        parts.append(f"## {block.__name__}\n\n{_purpose(block)}\n\n{_table(block)}")
    return "\n\n".join(parts) + "\n"


def _table(block: type[BaseModel]) -> str:
    rows = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    meanings = _meanings(block)
    for name, field in block.model_fields.items():
        limits = ", ".join(_limit(each) for each in field.metadata if _limit(each))
        kind = _kind(field.annotation) + (f", {limits}" if limits else "")
        if field.is_required():
            default = "required"
        else:
            default = f"`{_value(field.get_default(call_default_factory=True))}`"
        leads = list(_models(field.annotation))
        general = _purpose(leads[0]).partition("\n\n")[0] if len(leads) == 1 else ""
        meaning = meanings.get(name) or " ".join(general.split())
        cells = (f"`{field.alias or name}`", kind, default, meaning)
        rows.append("| " + " | ".join(each.replace("|", "\\|") for each in cells) + " |")
    return "\n".join(rows)


def _value(default: Any) -> str:
    if isinstance(default, BaseModel):
        said = default.model_dump(mode="json", exclude_defaults=True)
        return json.dumps(said) if said else "{}"
    if hasattr(default, "isoformat"):
        return str(default.isoformat())
    return json.dumps(default, default=str)


def _limit(constraint: Any) -> str:
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    for name, sign in signs.items():
        if (bound := getattr(constraint, name, None)) is not None:
            return f"{sign} {bound}"
    return ""


def _kind(annotation: Any) -> str:
    """A type in words."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    if getattr(annotation, "__metadata__", None):
        return _kind(inner[0])
    if origin in (Union, UnionType):
        return " or ".join(_kind(each) for each in inner)
    if str(origin) == "typing.Literal":
        return ", ".join(f"`{each}`" for each in inner)
    if origin is dict:
        return f"mapping to {_kind(inner[1])}"
    if origin in (tuple, list):
        if len(inner) == 2 and inner[1] is not Ellipsis:
            return f"[{_kind(inner[0])}, {_kind(inner[1])}]"
        return f"list of {_kind(inner[0])}"
    words = {"str": "text", "NoneType": "null", "bool": "true or false", "Decimal": "number",
             "float": "number", "int": "whole number"}  # fmt: skip
    name = getattr(annotation, "__name__", str(annotation))
    return words.get(name, name)


def _blocks(root: type[BaseModel]) -> list[type[BaseModel]]:
    """A model and those its fields lead to, in the order they are met."""
    found: list[type[BaseModel]] = [root]
    for block in found:
        for field in block.model_fields.values():
            found += [each for each in _models(field.annotation) if each not in found]
    return found


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    for inner in get_args(annotation):
        yield from _models(inner)


def _purpose(block: type[BaseModel]) -> str:
    return inspect.cleandoc(block.__doc__ or "")


@cache
def _meanings(block: type[BaseModel]) -> dict[str, str]:
    """The docstring below each field, a base's included, in one line each."""
    found: dict[str, str] = {}
    for each in reversed(block.__mro__):
        if not issubclass(each, BaseModel) or each.__module__.startswith("pydantic"):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(each))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
                and isinstance(text.value.value, str)
            ):
                found[field.target.id] = " ".join(text.value.value.split())
    return found
