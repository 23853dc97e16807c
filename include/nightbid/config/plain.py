"""A stand-in for pydantic that reads JSON written by pydantic, without validating it.

A machine that scores a bundle may have only onnxruntime, numpy and pyarrow installed. The JSON
files of the bundle were validated when the export wrote them.
"""

from __future__ import annotations

import functools
import json
import types
import typing
from typing import Annotated, Any, Literal, get_args, get_origin

REQUIRED = object()
ConfigDict = dict
ValidationError = ValueError


def Field(default: Any = REQUIRED, **_: Any) -> Any:  # noqa: N802, its name in pydantic
    """Return the default of a field; ignore constraints."""
    return default


def BeforeValidator(check: Any) -> Any:  # noqa: N802, its name in pydantic
    """Do nothing."""
    return check


def model_validator(**_: Any) -> Any:
    """Do nothing."""
    return lambda check: check


class BaseModel:
    """An object with the annotated attributes.

    Raises:
        ValueError: An attribute is unknown, or absent without a default.
    """

    def __init__(self, **values: Any) -> None:
        hints = _hints(type(self))  # type: ignore[arg-type]
        for name, hint in hints.items():
            if name in values:
                value = _made(hint, values[name])
            else:
                value = getattr(type(self), name, REQUIRED)
            if value is REQUIRED:
                raise ValueError(f"{type(self).__name__}: {name} is missing")
            self.__dict__[name] = value
        if unknown := values.keys() - hints.keys():
            raise ValueError(f"{type(self).__name__}: unknown key {min(unknown)!r}")

    @classmethod
    def model_validate_json(cls, text: str | bytes) -> typing.Self:
        """Read JSON that pydantic has written."""
        tree = json.loads(text)
        if not isinstance(tree, dict):
            raise ValueError(f"{cls.__name__}: not an object")
        return cls(**tree)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__


@functools.cache
def _hints(model: type[BaseModel]) -> dict[str, Any]:
    hints = typing.get_type_hints(model, include_extras=True)
    return {name: hint for name, hint in hints.items() if name != "model_config"}


def _made(hint: Any, value: Any) -> Any:
    """Convert lists to tuples and objects to models, according to a type hint."""
    origin, inner = get_origin(hint), get_args(hint)
    if isinstance(value, BaseModel):
        return value
    if origin is Annotated:
        return _made(inner[0], value)
    if origin in (typing.Union, types.UnionType):
        if isinstance(value, dict):
            return _made(next(member for member in inner if _is_tagged(member, value)), value)
        return None if value is None else _made(inner[0], value)
    if origin is tuple:
        return tuple(_made(inner[0], element) for element in value)
    if origin is dict:
        return {name: _made(inner[1], entry) for name, entry in value.items()}
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return hint(**value)
    return value


def _is_tagged(hint: Any, value: dict[str, Any]) -> bool:
    """Whether a model of a union is the one whose `transform` the object names."""
    tag = _hints(hint).get("transform") if isinstance(hint, type) else None
    return get_origin(tag) is Literal and value.get("transform") in get_args(tag)
