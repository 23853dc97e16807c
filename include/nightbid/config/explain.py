"""Turns pydantic's validation errors into lines that a user can act on."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_core import ErrorDetails

SHOWN = 12
"""Maximum number of lines shown; likely causes come first."""


def explain(error: ValidationError, root: type[BaseModel], where: str) -> str:
    """Describe each fault on a line, unknown keys first, since they often cause the others.

    Args:
        error: Validation error that pydantic raised.
        root: Model that was validated; a similar key of it is suggested for an unknown one.
        where: Prefix of each line but the first: the caller's error adds it to the first line.
    """
    details = sorted(error.errors(), key=lambda detail: detail["type"] != "extra_forbidden")
    lines = [line for detail in details for line in _one(detail, root).split("\n")]
    rest = len(lines) - SHOWN
    lines = lines[:SHOWN]
    lines += [f"and {rest} more"] if rest > 0 else []
    return f"\n{where}: ".join(lines)


def _one(detail: ErrorDetails, root: type[BaseModel]) -> str:
    path = [str(part) for part in detail["loc"]]
    key = ".".join(path)
    if detail["type"] == "extra_forbidden":
        hint = suggestion(path[-1], _siblings(detail["loc"], root))
        return f"unknown key {key!r}" + (f", {hint}" if hint else "")
    if detail["type"] == "missing":
        return f"key {key!r} is missing"
    if detail["type"].startswith("union_tag_"):
        return _wrong_kind(detail, key)
    message = detail["msg"].removeprefix("Value error, ")
    value = detail.get("input")
    if detail["type"] == "string_type" and isinstance(value, (bool, int, float, date)):
        message += "; if it is text, write it in quotes"
    if path[-1:] == ["[key]"]:
        key = f"the keys of {'.'.join(path[:-2])}"
    is_hidden = isinstance(value, (Mapping, list, tuple)) or _is_secret(path, root)
    shown = "" if is_hidden else f", got {shortened(repr(value))}"
    return f"{key}: {message}{shown}" if key else f"{message}{shown}"


def _wrong_kind(detail: ErrorDetails, key: str) -> str:
    """Describe a block whose `kind` or `transform`, which selects its other keys, is wrong."""
    context = detail["ctx"]
    name = f"{key}.{str(context['discriminator']).strip(chr(39))}"
    if detail["type"] == "union_tag_not_found":
        return f"key {name!r} is missing"
    known = str(context["expected_tags"]).replace("'", "").split(", ")
    hint = suggestion(str(context["tag"]), known) or f"known: {', '.join(known)}"
    return f"{name}: there is no {context['tag']!r}, {hint}"


def _is_secret(path: list[str], root: type[BaseModel]) -> bool:
    """Whether the value of a key must not be shown."""
    field = root.model_fields.get(path[0]) if path else None
    kinds = (field.annotation, *getattr(field.annotation, "__args__", ())) if field else ()
    return SecretStr in kinds


def _siblings(location: tuple[int | str, ...], root: type[BaseModel]) -> list[str]:
    """List the keys that are allowed at the location of an unknown one."""
    models: list[type[BaseModel]] = [root]
    for part in location[:-1]:
        inside = [
            nested
            for model in models
            for name, field in model.model_fields.items()
            if part in (name, field.alias)
            for nested in _models_in(field.annotation)
        ]
        # A part that is not a field is the tag of a union, a dictionary key or a list index.
        models = inside or models
    names: dict[str, None] = {}
    for model in models:
        for name, field in model.model_fields.items():
            names[field.alias or name] = None
        names.update(dict.fromkeys(getattr(model, "other_keys", ())))
    return list(names)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    models: list[type[BaseModel]] = []
    for argument in getattr(annotation, "__args__", ()):
        models.extend(_models_in(argument))
    return models


def suggestion(wrong: str, known: Sequence[str]) -> str:
    """Suggest the known name that is closest to a wrong one; empty if none is close."""
    close = difflib.get_close_matches(wrong, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else ""


def shortened(text: str) -> str:
    """Shorten a text to 200 characters, so that a message can quote it."""
    return text if len(text) <= 200 else f"{text[:200]}…"
