"""The base of every typed block of configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import (
        BaseModel,
        BeforeValidator,
        ConfigDict,
        Field,
        ValidationError,
        model_validator,
    )
else:
    try:
        from pydantic import (
            BaseModel,
            BeforeValidator,
            ConfigDict,
            Field,
            ValidationError,
            model_validator,
        )
    except ModuleNotFoundError:  # where a bundle is scored, and nothing else
        from nightbid.config.plain import (
            BaseModel,
            BeforeValidator,
            ConfigDict,
            Field,
            ValidationError,
            model_validator,
        )

__all__ = [
    "BaseModel",
    "BeforeValidator",
    "Block",
    "ConfigDict",
    "Field",
    "ValidationError",
    "model_validator",
]


class Block(BaseModel):
    """A block of configuration: immutable; unknown keys and infinite numbers are errors."""

    # A limit of NaN would compare as false, and its gate would never stop.
    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )
