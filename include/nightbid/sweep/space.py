"""Search space of a sweep, parsed from `--set` texts.

::

    key=a,b,c        one of these values
    key=log:lo..hi   a number in the range, uniform on a logarithmic scale
    key=lin:lo..hi   a number in the range, uniform; an integer if both ends are integers
    key=value        always this value
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from nightbid.config.explain import shortened
from nightbid.config.models import Model
from nightbid.config.pipeline import PipelineSpec
from nightbid.config.yaml_values import UNREADABLE, load_value
from nightbid.errors import ConfigError
from nightbid.models.registry import find

ParameterValue = str | int | float
SHORT = {"train.lr": "train.learning_rate"}
DIGITS = 4
"""Significant digits of a drawn number: the printed value is the value used in training."""


@dataclass(frozen=True)
class Parameter:
    """One key of the pipeline that varies."""

    key: str
    choices: tuple[str, ...] = ()
    """Values as in `--set`; empty for a range."""
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    def text(self, value: ParameterValue) -> str:
        """Format a proposed value as in `--set`."""
        return f"{value:.{DIGITS}g}" if isinstance(value, float) else str(value)

    @property
    def extremes(self) -> tuple[str, ...]:
        """Values that are checked in place of all values: the choices, or the ends of the range."""
        if self.choices:
            return self.choices
        ends = (int(self.low), int(self.high)) if self.whole else (self.low, self.high)
        return tuple(self.text(end) for end in ends)


@dataclass(frozen=True)
class Space:
    """The varying parameters and the fixed overrides."""

    parameters: tuple[Parameter, ...]
    fixed: tuple[str, ...]
    """`key=value` overrides for every trial."""

    @property
    def size(self) -> int | None:
        """Number of distinct trials; None if a parameter has a range."""
        if not all(parameter.choices for parameter in self.parameters):
            return None
        return math.prod(len(parameter.choices) for parameter in self.parameters)

    def overrides(self, values: Mapping[str, ParameterValue]) -> tuple[str, ...]:
        """Format one trial's values as overrides of the pipeline."""
        varied = (
            f"{parameter.key}={parameter.text(values[parameter.key])}"
            for parameter in self.parameters
        )
        return (*self.fixed, *varied)


def parse_space(settings: Sequence[str], load: Callable[[Sequence[str]], PipelineSpec]) -> Space:
    """Parse the `--set` texts of a sweep, and check every value against the pipeline.

    Args:
        settings: `--set` texts.
        load: Function that loads the pipeline with the given overrides.

    Raises:
        ConfigError: A text cannot be parsed, names an unknown key, or has an invalid value.
    """
    spec = load(())
    parsed = [_parse(text, spec) for text in settings]
    fixed = tuple(
        f"{parameter.key}={parameter.choices[0]}"
        for parameter in parsed
        if len(parameter.choices) == 1
    )
    parameters = tuple(parameter for parameter in parsed if len(parameter.choices) != 1)
    keys = [parameter.key for parameter in parsed]
    for key in keys:
        if keys.count(key) > 1:
            raise ConfigError(
                f"{key!r} is set {keys.count(key)} times",
                where="--set",
                hint="list all values in one --set",
            )
    if not parameters:
        raise ConfigError(
            "nothing varies",
            where="--set",
            hint="use lists or ranges: --set train.learning_rate=log:1e-4..1e-2",
        )
    base = load(fixed)
    for parameter in parameters:
        for value in parameter.extremes:
            tried = load((*fixed, f"{parameter.key}={value}"))
            _check_hyperparameters(parameter.key, tried)
    _check_hyperparameters("model.parameters.", base)
    return Space(parameters, fixed)


def _check_hyperparameters(key: str, spec: PipelineSpec) -> None:
    if key.startswith("model.parameters."):
        find(spec.model.architecture).parameters(spec.model.parameters)


def _parse(text: str, spec: PipelineSpec) -> Parameter:
    short, equals, value = text.partition("=")
    if not equals or not short or not value:
        raise ConfigError(
            f"cannot read {text!r}",
            where="--set",
            hint="write key=a,b,c or key=log:lo..hi or key=lin:lo..hi",
        )
    key = _whole_key(short, spec)
    scale, colon, bounds = value.partition(":")
    if colon and scale in ("log", "lin"):
        return _range(key, scale == "log", bounds, text)
    try:
        values = load_value(f"[{value}]", "--set")
    except (yaml.YAMLError, *UNREADABLE) as error:
        raise ConfigError(
            f"the values of {shortened(text)!r} are not YAML", where="--set", hint="quote them"
        ) from error
    choices = tuple(choice if isinstance(choice, str) else json.dumps(choice) for choice in values)
    return Parameter(key, tuple(dict.fromkeys(choices)))


def _range(key: str, log: bool, bounds: str, text: str) -> Parameter:
    low, dots, high = bounds.partition("..")
    try:
        ends = (float(low), float(high))
    except ValueError:
        ends = (math.nan, math.nan)
    if not dots or not ends[0] < ends[1] or (log and ends[0] <= 0):
        raise ConfigError(
            f"cannot read the range {text!r}",
            where="--set",
            hint="write log:1e-4..1e-2 or lin:0.0..0.5, the lower end first"
            + (", above 0" if log else ""),
        )
    whole = all(end.strip().lstrip("+-").isdigit() for end in (low, high))
    return Parameter(key, low=ends[0], high=ends[1], log=log, whole=whole)


def _whole_key(key: str, spec: PipelineSpec) -> str:
    """Expand short keys: `train.lr`, or `model.x` for a hyperparameter `model.parameters.x`."""
    if key in SHORT:
        return SHORT[key]
    block, _, rest = key.partition(".")
    if block == "model" and rest not in Model.model_fields and "." not in rest:
        known: Mapping[str, Any] = inspect.signature(find(spec.model.architecture).build).parameters
        if rest in known:
            return f"model.parameters.{rest}"
    return key
