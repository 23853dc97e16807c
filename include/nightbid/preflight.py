"""Checks the settings before a night starts; reports all faults at once, without heavy imports."""

from __future__ import annotations

import ast
import difflib
import importlib.util
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

from nightbid.config.event_source import EventsSource
from nightbid.config.folder_source import FolderSource
from nightbid.config.load import find_tree, validated
from nightbid.config.models import Model
from nightbid.config.pipeline import Night, PipelineSpec
from nightbid.config.salvage import rest_of
from nightbid.config.sources import SimulatorSource
from nightbid.data.simulator.columns import logged_columns
from nightbid.data.source import open_source
from nightbid.data.user_keys import UserKeyHasher
from nightbid.errors import ConfigError, NightbidError
from nightbid.models import registry

CORRECT = "correct the YAML, --set or the form; nothing has been run"
NUMBERS = {"int": int, "float": (int, float), "bool": bool}


def checked_pipeline(
    name: str, folder: Path, overrides: tuple[str, ...], night: date, cache: Path
) -> PipelineSpec:
    """Load a pipeline and check its YAML and what the YAML refers to; report all faults at once.

    Args:
        name: Name of the pipeline.
        folder: Folder of the pipeline YAML files.
        overrides: `dotted.key=value` settings that take precedence over the file.
        night: Newest day of logs.
        cache: Folder for downloads of a source.

    Raises:
        ConfigError: The pipeline has faults; the message has all of them.
    """
    tree, where = find_tree(name, folder, overrides), f"{name}.yaml"
    try:
        spec = validated(tree, where)
    except ConfigError as error:
        rest = rest_of(tree)
        more = []
        if rest is not None:
            stated = _faults(rest.spec, night, cache, reads_logs=rest.reads_logs)
            more = [*rest.faults(), *filter(rest.is_stated, stated)]
        if not more:
            raise
        lines = f"\n{where}: ".join([error.what, *more])
        raise ConfigError(lines, where=where, hint=CORRECT) from error
    check_settings(spec, night, cache)
    return spec


def check_settings(spec: PipelineSpec, night: date, cache: Path) -> None:
    """Check what the YAML refers to: architectures, their parameters, columns of the logs.

    Args:
        spec: Pipeline with overrides applied.
        night: Newest day of logs.
        cache: Folder for downloads of a source.

    Raises:
        ConfigError: The pipeline has faults; the message has all of them.
    """
    if faults := list(_faults(spec, night, cache)):
        more = f"{len(faults)} settings are wrong: " if len(faults) > 1 else ""
        raise ConfigError(f"{more}{'; '.join(faults)}", where=f"{spec.pipeline}.yaml", hint=CORRECT)


def _faults(
    spec: PipelineSpec, night: date, cache: Path, *, reads_logs: bool = True
) -> Iterator[str]:
    yield from _models(spec)
    if reads_logs:
        yield from _columns(spec, night, cache)
    yield from _hook(spec)
    yield from _secret(spec)


def _secret(spec: PipelineSpec) -> Iterator[str]:
    try:
        UserKeyHasher.of(spec)
    except ConfigError as error:
        yield str(error)


def _models(spec: PipelineSpec) -> Iterator[str]:
    known = registry.names()
    for where, model in (("model", spec.model), ("baseline", spec.baseline)):
        if getattr(model, "column", None):
            continue  # a score in the logs
        name = model.architecture
        if name not in known:
            yield (
                f"{where}.architecture: no architecture called {name!r},"
                f" {registry.suggestion(name, known)}"
            )
            continue
        yield from _parameters(where, model)
        if where == "model" and spec.train.mode != "full" and not registry.is_network(name):
            yield f"train.mode: {name} cannot start from earlier weights; set train.mode: full"


def _parameters(where: str, model: Model) -> Iterator[str]:
    keywords = registry.signature(model.architecture)
    if keywords is None:
        return
    for name, value in model.parameters.items():
        key = f"{where}.parameters.{name}"
        if name not in keywords:
            yield (
                f"{key}: {model.architecture} has no hyperparameter {name!r},"
                f" {registry.suggestion(name, keywords)}"
            )
        elif model.architecture == "ensemble" and name == "members":
            known = registry.names()
            for member in value if isinstance(value, (list, tuple)) else (value,):
                if member not in known:
                    close = registry.suggestion(str(member), known)
                    yield f"{key}: no architecture called {member!r}, {close}"
        elif (kind := NUMBERS.get(_name(keywords[name]))) and not _is(value, kind):
            yield f"{key}: {value!r} is not of type {_name(keywords[name])}"


def _name(annotation: ast.expr | None) -> str:
    return annotation.id if isinstance(annotation, ast.Name) else ""


def _is(value: Any, kind: Any) -> bool:
    """Whether a value has a type; a boolean does not count as a number."""
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _columns(spec: PipelineSpec, night: date, cache: Path) -> Iterator[str]:
    """Check that the first rows of the newest day have the columns of features and slices."""
    names = _logged(spec, night, cache)
    if not names:
        return  # the stage `sample` reports missing and unreadable days
    for key, column in _roles(spec):
        if column not in names:
            yield f"{key}: column {column!r} is missing{_close(column, names)}"
    for feature, block in spec.features.items():
        for column in block.sources(feature):
            if column not in names:
                yield f"features.{feature}: column {column!r} is missing{_close(column, names)}"
    for column in spec.evaluate.slices:
        if column not in names:
            yield f"evaluate.slices: column {column!r} is missing{_close(column, names)}"


def _roles(spec: PipelineSpec) -> Iterator[tuple[str, str]]:
    """Yield (key of the YAML, column) for the columns that every day of logs must have."""
    for role, name in spec.columns.by_role.items():
        # The default item column may be missing; one that the YAML names must exist.
        if role != "item" or role in spec.columns.model_fields_set:
            yield f"columns.{role}", name
    for key in ("column", "given", "event_time", "delay_by"):
        if column := getattr(spec.label, key):
            yield f"label.{key}", column
    if column := spec.baseline.column:
        yield "baseline.column", column


def _hook(spec: PipelineSpec) -> Iterator[str]:
    """Check that the function of `gates.notify` exists, without importing its module."""
    if not (hook := spec.gates.notify):
        return
    module, colon, name = hook.partition(":")
    try:
        is_there = importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        is_there = False
    if not colon or not name.isidentifier():
        yield f"gates.notify: {hook!r} is not package.module:function"
    elif not is_there:
        yield f"gates.notify: there is no module {module!r} to import"


def _logged(spec: PipelineSpec, night: date, cache: Path) -> list[str]:
    known = (EventsSource, FolderSource, SimulatorSource)
    if spec.sampling.frozen or not isinstance(spec.source, known):
        return []
    try:
        day = max(Night.of(spec, night).evaluate)
        if isinstance(spec.source, SimulatorSource) and not spec.source.faults:
            return list(logged_columns(spec.source))
        source = open_source(spec.source, cache, (day,))
        batch = next(iter(source.batches(day)), None)
    except (NightbidError, OSError, ValueError):
        return []
    return list(batch.schema.names) if batch is not None else []


def _close(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f", did you mean {close[0]!r}?" if close else ""
