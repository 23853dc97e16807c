"""Turns pydantic's validation errors into lines that a user can act on."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_core import ErrorDetails

SHOWN = 12
"""Maximum number of lines shown; likely causes come first."""
SHOULD = re.compile("^[A-Z][a-z]+ should ")
LIST, BLOCK = "must be a list, such as [a, b]", "must be a block of `key: value` lines"
NUMBER, WHOLE, TRUTH = "must be a number", "must be a whole number", "must be true or false"
MESSAGES = {
    "dict_type": BLOCK, "model_type": BLOCK, "model_attributes_type": BLOCK,
    "list_type": LIST, "tuple_type": LIST, "set_type": LIST, "frozen_set_type": LIST,
    "string_type": "must be text",
    "int_type": WHOLE, "int_parsing": WHOLE, "int_from_float": WHOLE,
    "float_type": NUMBER, "float_parsing": NUMBER,
    "decimal_type": NUMBER, "decimal_parsing": NUMBER,
    "bool_type": TRUTH, "bool_parsing": TRUTH,
}  # fmt: skip
"""Type of pydantic's error → message, where pydantic's own speaks of Python."""


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
    models, tags = _walk(detail["loc"], root)
    key = ".".join(part for place, part in enumerate(path) if place not in tags)
    if detail["type"] == "extra_forbidden":
        of_tag = f" of {path[tags[-1]]!r}" if tags else ""
        hint = suggestion(path[-1], _keys(models))
        block = root.model_fields.get(path[0])
        is_named_by_users = block is not None and get_origin(block.annotation) is dict
        if not is_named_by_users and (elsewhere := _places_of(path[-1], root)):
            hint = f"did you mean {' or '.join(map(repr, elsewhere[:2]))}?"
        return f"unknown key {key!r}{of_tag}" + (f", {hint}" if hint else "")
    if detail["type"] == "missing":
        return f"key {key!r} is missing"
    if detail["type"].startswith("union_tag_"):
        return _wrong_kind(detail, key)
    value = detail.get("input")
    message = MESSAGES.get(detail["type"]) or _plain(detail["msg"])
    if detail["type"] == "string_type" and isinstance(value, (bool, int, float, date)):
        message += "; write it in quotes"
    if value is None:
        message += "; without a value, remove the key"
    if path[-1:] == ["[key]"]:
        key = f"the keys of {'.'.join(key.split('.')[:-2])}"
    is_hidden = isinstance(value, (Mapping, list, tuple)) or _is_secret(path, root)
    shown = "" if is_hidden else f", got {shortened(repr(value))}"
    return f"{key}: {message}{shown}" if key else f"{message}{shown}"


def _plain(message: str) -> str:
    """Turn "Input should be greater than 0" into "must be greater than 0"."""
    return SHOULD.sub("must ", message.removeprefix("Value error, "))


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


def _walk(
    location: tuple[int | str, ...], root: type[BaseModel]
) -> tuple[list[type[BaseModel]], list[int]]:
    """Find the models that the last part of a location belongs to.

    Returns:
        The models, and the places in the location that are no keys, but the `kind` or `transform`
        that selects a model.
    """
    models: list[type[BaseModel]] = [root]
    owners, tags, is_key = models, [], False
    for place, part in enumerate(location):
        owners = models
        fields = [
            field
            for model in models
            for name, field in model.model_fields.items()
            if part in (name, field.alias)
        ]
        selected = [model for model in models if _is_selected_by(part, model)]
        if is_key:  # of a dictionary: a feature may have the name of a transform
            is_key = False
        elif selected and len(models) > 1:
            tags.append(place)
            models = selected
        elif fields:
            models = [nested for field in fields for nested in _models_in(field.annotation)]
            models = models or owners
            is_key = any(get_origin(field.annotation) is dict for field in fields)
    return owners, tags


def _keys(models: Sequence[type[BaseModel]]) -> list[str]:
    names: dict[str, None] = {}
    for model in models:
        for name, field in model.model_fields.items():
            names[field.alias or name] = None
        names.update(dict.fromkeys(getattr(model, "other_keys", ())))
    return list(names)


def _places_of(name: str, root: type[BaseModel]) -> list[str]:
    """List the dotted keys that end in a name, the shortest first; not those of dictionaries."""
    found: list[str] = []
    level = [("", root)]
    while level:
        nested: list[tuple[str, type[BaseModel]]] = []
        for prefix, model in level:
            for key, field in model.model_fields.items():
                place = f"{prefix}{field.alias or key}"
                if place.rpartition(".")[2] == name:
                    found.append(place)
                if get_origin(field.annotation) not in (dict, tuple, list):
                    nested += [(f"{place}.", inner) for inner in _models_in(field.annotation)]
        level = nested
    return list(dict.fromkeys(found))


def _is_selected_by(part: int | str, model: type[BaseModel]) -> bool:
    """Whether a model is the one of a union with this value in its literal field."""
    return any(
        get_origin(field.annotation) is Literal and part in get_args(field.annotation)
        for field in model.model_fields.values()
    )


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    models: list[type[BaseModel]] = []
    for argument in getattr(annotation, "__args__", ()):
        models.extend(_models_in(argument))
    return models


def suggestion(wrong: str, known: Sequence[str]) -> str:
    """Suggest the known name that is closest to a wrong one; empty if none is close."""
    close = difflib.get_close_matches(wrong, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else ""


def shortened(text: str) -> str:
    """Shorten a text to 200 characters, so that a message can quote it."""
    return text if len(text) <= 200 else f"{text[:200]}…"
