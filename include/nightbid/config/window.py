"""Number of partitions of the logs that a night reads: the typed `window` block."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar

from pydantic import (
    ConfigDict,
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import InitErrorDetails

from nightbid.config.base import Block
from nightbid.partitions import STEPS, Unit

LONGEST_DAYS = 3660
"""Maximum length of a window and of each of its parts, in days: ten years."""
KEY = re.compile(r"(history|train|validate|evaluate|lag)_(day|hour|week)s")


def _in_other_units(schema: dict[str, Any]) -> None:
    """Add the keys of hours and weeks to the JSON schema."""
    known = schema["properties"]
    for unit in ("hour", "week"):
        for name in list(known):
            if (match := KEY.fullmatch(name)) and match[2] == "day":
                description = known[name].get("description", "").replace("days", f"{unit}s")
                other = {**known[name], "description": description.replace("day", unit)}
                known[f"{match[1]}_{unit}s"] = other


class Window(Block):
    """Number of days per split, oldest first: history, train, validate, evaluate.

    Where the logs are partitioned by hours or weeks (`source.partition`), the keys end in `_hours`
    or `_weeks` instead: `{train_hours: 120, validate_hours: 24, evaluate_hours: 24}`.
    """

    model_config = ConfigDict(json_schema_extra=_in_other_units)

    history_days: int = Field(default=0, ge=0, le=LONGEST_DAYS)
    """Number of days before the first training day that only feed `target_rate`, `count` and
    `recent`, so that the first training days have a past. Days before the logs start are left
    out."""

    train_days: int = Field(default=5, ge=1, le=LONGEST_DAYS)
    """Number of days to train on."""
    validate_days: int = Field(default=1, ge=1, le=LONGEST_DAYS)
    """Number of days for early stopping and calibration."""
    evaluate_days: int = Field(default=1, ge=1, le=LONGEST_DAYS)
    """Number of newest days, on which candidate and champion are compared."""
    lag_days: int = Field(default=0, ge=0, le=60)
    """Number of days to leave out between the night and the newest day that it uses."""

    other_keys: ClassVar[tuple[str, ...]] = tuple(
        f"{part}_{unit}s"
        for unit in ("hour", "week")
        for part in ("history", "train", "validate", "evaluate", "lag")
    )
    """Keys that count hours and weeks; the fields themselves count days."""
    _unit: Unit = PrivateAttr(default="day")

    @property
    def unit(self) -> Unit:
        """Unit that the keys of the YAML count."""
        return self._unit

    @model_validator(mode="wrap")
    @classmethod
    def _read_unit(cls, value: Any, read: Callable[[Any], Window]) -> Window:
        unit: Unit = "day"
        written: dict[str, str] = {}
        if isinstance(value, dict):
            units = {match[2]: name for name in value if (match := KEY.fullmatch(str(name)))}
            if len(units) > 1:
                raise ValueError(
                    f"{' and '.join(sorted(units.values()))} use different units; use the unit "
                    "of source.partition for all"
                )
            unit = next((name for name in STEPS if name in units), "day")
            written = {
                f"{match[1]}_days": name for name in value if (match := KEY.fullmatch(str(name)))
            }
            fields = {name: field for field, name in written.items()}
            value = {fields.get(name, name): number for name, number in value.items()}
        try:
            window = read(value)
        except ValidationError as error:
            raise _as_written(error, written) from None
        if isinstance(value, dict):
            window._unit = unit
        return window

    @model_serializer(mode="wrap")
    def _write_unit(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write the keys as the YAML spells them, such as `train_hours`."""
        fields: dict[str, Any] = write(self)
        return {name.replace("_days", f"_{self.unit}s"): value for name, value in fields.items()}


def _as_written(error: ValidationError, written: dict[str, str]) -> ValidationError:
    """Name the keys as the user wrote them: `train_hours`, where the field is `train_days`."""
    faults: list[InitErrorDetails] = [
        {
            "type": fault["type"],
            "loc": tuple(written.get(str(part), part) for part in fault["loc"]),
            "input": fault["input"],
            "ctx": fault.get("ctx", {}),
        }
        for fault in error.errors()
    ]
    return ValidationError.from_exception_data(error.title, faults)
