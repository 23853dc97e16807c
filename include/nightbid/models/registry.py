"""Architectures by name.

An architecture is a function in `nightbid/models/architectures/<name>.py`, decorated with
`@architecture` (or in `tree_architectures` if LightGBM fits it, or in `ensemble_architectures` if
it combines others). To add one, add a file; nothing else changes::

    @architecture
    def wide_and_deep(fields: Fields, *, hidden: tuple[int, ...] = (128, 64)) -> Tensor:
        return add([fields.linear, logit(mlp(fields.flat, hidden))])

The keyword arguments are the hyperparameters that a pipeline may set in `model.parameters`.
A lookup imports only the file of that name, so heavy libraries are imported as late as possible.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

from pydantic import ConfigDict, ValidationError, create_model

from nightbid.errors import ConfigError
from nightbid.models import architectures, ensemble_architectures, tree_architectures
from nightbid.models.runtime import tensorflow

Engine = Literal["tensorflow", "lightgbm", "ensemble"]
PACKAGES: dict[Engine, Any] = {
    "tensorflow": architectures,
    "lightgbm": tree_architectures,
    "ensemble": ensemble_architectures,
}
_REGISTERED: dict[str, Architecture] = {}


@dataclass(frozen=True)
class Architecture:
    """A registered function and its training properties."""

    name: str
    build: Callable[..., Any]
    step_scale: float = 1.0
    """Factor for `train.learning_rate`: a linear model takes larger steps than a deep one."""
    multi_task: bool = False
    """Whether it has two logits: of the label's condition, and of the label where that held."""

    @property
    def engine(self) -> Engine:
        """Engine that fits the architecture, derived from its package."""
        for engine in ("lightgbm", "ensemble"):
            if self.build.__module__.startswith(PACKAGES[engine].__name__):
                return engine
        return "tensorflow"

    def parameters(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Complete hyperparameters with the defaults of the function's signature.

        Raises:
            ConfigError: A hyperparameter is unknown or has the wrong type.
        """
        known = {
            name: (parameter.annotation, parameter.default)
            for name, parameter in inspect.signature(self.build, eval_str=True).parameters.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        }
        for name in values:
            if name not in known:
                raise ConfigError(
                    f"{self.name} has no hyperparameter {name!r}",
                    where=f"model.parameters.{name}",
                    hint=suggestion(name, known),
                )
        fields: dict[str, Any] = known
        typed = create_model("Parameters", __config__=ConfigDict(extra="forbid"), **fields)
        try:
            return dict(typed(**values))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ConfigError(
                f"{first['msg']}, not {first['input']!r}", where=f"model.parameters.{where}"
            ) from error


@overload
def architecture(function: Callable[..., Any], /) -> Callable[..., Any]: ...
@overload
def architecture(
    *, step_scale: float = ..., multi_task: bool = ...
) -> Callable[[Callable[..., Any]], Callable[..., Any]]: ...
def architecture(
    function: Callable[..., Any] | None = None,
    /,
    *,
    step_scale: float = 1.0,
    multi_task: bool = False,
) -> Callable[..., Any]:
    """Register a function as an architecture under its own name."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        name = function.__name__
        _REGISTERED[name] = Architecture(name, function, step_scale, multi_task)
        return function

    return register(function) if function else register


def names() -> list[str]:
    """Return the names of all architectures from their files, without importing them."""
    return sorted({*_engines(), *_REGISTERED})


def is_network(name: str) -> bool:
    """Return whether TensorFlow fits an architecture, from its folder, without importing it."""
    return _engines().get(name, "tensorflow") == "tensorflow"


def signature(name: str) -> dict[str, ast.expr | None] | None:
    """Read an architecture's hyperparameters and their annotations from its file.

    Nothing is imported, so that a typo is reported before TensorFlow is loaded.

    Returns:
        Hyperparameter → annotation; None if there is no such file or no such function in it, in
        which case `find` explains the error.
    """
    engine = _engines().get(name)
    if engine is None:
        return None
    path = Path(next(iter(PACKAGES[engine].__path__))) / f"{name}.py"
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError):
        return None
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return {argument.arg: argument.annotation for argument in node.args.kwonlyargs}
    return None


def find(name: str) -> Architecture:
    """Look up an architecture; this imports its file and the libraries that it needs.

    Raises:
        ConfigError: No architecture has this name.
    """
    if name not in names():
        raise ConfigError(
            f"no architecture called {name!r}",
            where="model.architecture",
            hint=suggestion(name, names()),
        )
    if name not in _REGISTERED:
        engine = _engines()[name]
        if engine == "tensorflow":
            tensorflow()  # configure TensorFlow before the file imports it
        importlib.import_module(f"{PACKAGES[engine].__name__}.{name}")
    if name not in _REGISTERED:
        raise ConfigError(
            f"{name}.py registers no function called {name!r}",
            where="model.architecture",
            hint="decorate one with @architecture",
        )
    return _REGISTERED[name]


def _engines() -> dict[str, Engine]:
    engines: dict[str, Engine] = {}
    for engine, package in PACKAGES.items():
        for module in pkgutil.iter_modules(package.__path__):
            engines[module.name] = engine
    return engines


def suggestion(name: str, known: Any) -> str:
    """Return a hint that names the closest known name, or all of them."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known))}"
