"""From YAML text to a typed pipeline; every fault is one line that says where and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from nightbid.config.pipeline import PipelineSpec
from nightbid.errors import ConfigError


def load_pipeline(path: Path, overrides: Sequence[str] = ()) -> PipelineSpec:
    """Read one pipeline YAML.

    Args:
        path: the file.
        overrides: `dotted.key=value` settings that win over the file; the value is YAML.

    Raises:
        ConfigError: unreadable file, malformed YAML, unknown key, or a value out of its domain.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot read the pipeline file ({error.strerror})",
            where=str(path),
            hint="check the name, or list the pipelines with `nightbid pipelines`",
        ) from error
    suite = path.parent / "suites" / path.name
    return parse_pipeline(text, path.name, overrides, suite if suite.exists() else None)


def find_pipeline(name: str, folder: Path, overrides: Sequence[str] = ()) -> PipelineSpec:
    """Load the pipeline called `name` from `folder`; a wrong name suggests the right one."""
    known = pipeline_names(folder)
    if name not in known:
        raise ConfigError(
            f"no pipeline called {name!r}",
            where=str(folder),
            hint=_suggestion(name, known) or f"known pipelines: {', '.join(known) or 'none'}",
        )
    return load_pipeline(folder / f"{name}.yaml", overrides)


def pipeline_names(folder: Path) -> list[str]:
    """Names of the pipelines in a folder, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def parse_pipeline(
    text: str, where: str, overrides: Sequence[str] = (), suite: Path | None = None
) -> PipelineSpec:
    """Parse and validate the text of a pipeline YAML; see `load_pipeline`.

    Args:
        text: of the pipeline file.
        where: its name, for messages.
        overrides: settings that win over the file.
        suite: a file of learned gate bands and overrides, added to those of the pipeline.
    """
    tree = _yaml(text, where)
    if not isinstance(tree, dict):
        raise ConfigError(
            f"a pipeline is a mapping of keys, not {type(tree).__name__}",
            where=where,
            hint="start from include/pipelines/ctr.yaml",
        )
    if suite is not None:
        _add_suite(tree, suite)
    for override in overrides:
        _apply(tree, override)
    try:
        return PipelineSpec.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(*_explain(error, tree), where=where) from error


def _yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"{where}:{mark.line + 1}" if mark else where
        problem = getattr(error, "problem", None) or "cannot be parsed"
        raise ConfigError(
            f"malformed YAML: {problem}", where=line, hint="mend this line (or the one above)"
        ) from error


def _add_suite(tree: dict[str, Any], path: Path) -> None:
    """Add a suite's bands and overrides to the `gates` block: a run's record then holds them."""
    where = f"suites/{path.name}"
    suite = _yaml(path.read_text(encoding="utf-8"), where) or {}
    if not isinstance(suite, dict) or set(suite) - {"bands", "overrides"}:
        raise ConfigError(
            "a suite has the keys 'bands' and 'overrides' only",
            where=where,
            hint="see `nightbid gates propose`",
        )
    gates = tree.setdefault("gates", {}) or {}
    tree["gates"] = {
        **gates,
        **{key: [*(gates.get(key) or []), *(value or [])] for key, value in suite.items()},
    }


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(
            f"cannot read the override {override!r}",
            where="--set",
            hint="write it as dotted.key=value, for example train.learning_rate=0.002",
        )
    *parents, leaf = key.split(".")
    node: Any = tree
    for depth, parent in enumerate(parents):
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise ConfigError(
                f"{'.'.join(parents[: depth + 1])} is a value, not a block, in {override!r}",
                where="--set",
                hint="override a key of an existing block",
            )
    try:
        node[leaf] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"the value of {override!r} is not YAML", where="--set", hint="quote the value"
        ) from error


def _explain(error: ValidationError, tree: dict[str, Any]) -> tuple[str]:
    """Fold pydantic's list into one line, the unknown keys first: they cause the others."""
    details = sorted(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    lines = [_one(detail) for detail in details[:4]]
    rest = len(details) - len(lines)
    return ("; ".join(lines) + (f"; and {rest} more" if rest else ""),)


def _one(detail: ErrorDetails) -> str:
    path = [str(part) for part in detail["loc"]]
    key = ".".join(path)
    if detail["type"] == "extra_forbidden":
        hint = _suggestion(path[-1], _siblings(detail["loc"]))
        return f"unknown key {key!r}" + (f", {hint}" if hint else "")
    if detail["type"] == "missing":
        return f"key {key!r} is missing"
    message = detail["msg"].removeprefix("Value error, ")
    value = detail.get("input")
    shown = "" if isinstance(value, (Mapping, list, tuple)) else f", got {value!r}"
    return f"{key or 'pipeline'}: {message}{shown}"


def _siblings(location: tuple[int | str, ...]) -> list[str]:
    """Keys that would have been allowed where an unknown one stood."""
    models: list[type[BaseModel]] = [PipelineSpec]
    for part in location[:-1]:
        inside = [
            nested
            for model in models
            for name, field in model.model_fields.items()
            if part in (name, field.alias)
            for nested in _models_in(field.annotation)
        ]
        # A part that is no field is a union's tag, a dictionary's key or a list's index.
        models = inside or models
    names: dict[str, None] = {}
    for model in models:
        for name, field in model.model_fields.items():
            names[field.alias or name] = None
    return list(names)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    found: list[type[BaseModel]] = []
    for argument in getattr(annotation, "__args__", ()):
        found.extend(_models_in(argument))
    return found


def _suggestion(wrong: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(wrong, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else ""
