"""Loads YAML text as a typed pipeline; every error is one line with its place and a hint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from nightbid.config.explain import explain, shortened, suggestion
from nightbid.config.pipeline import PipelineSpec
from nightbid.config.yaml_values import UNREADABLE, load_value, parse_yaml, read_text, read_yaml
from nightbid.errors import ConfigError


def load_pipeline(path: Path, overrides: Sequence[str] = ()) -> PipelineSpec:
    """Read one pipeline YAML.

    Args:
        path: Path of the YAML file.
        overrides: `dotted.key=value` settings that take precedence over the file; the value is
            YAML.

    Raises:
        ConfigError: The file is unreadable or not YAML, or a key or value is invalid.
    """
    return validated(_tree_of(path, overrides), path.name)


def find_pipeline(name: str, folder: Path, overrides: Sequence[str] = ()) -> PipelineSpec:
    """Load the pipeline called `name` from `folder`; a wrong name suggests the right one."""
    return validated(find_tree(name, folder, overrides), f"{name}.yaml")


def find_tree(name: str, folder: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read the YAML of the pipeline called `name`, with overrides, before it is validated.

    Raises:
        ConfigError: There is no such folder or pipeline, or its file or an override cannot be read.
    """
    check_folder(folder)
    files = _pipeline_files(folder)
    known = _names_of(files)
    if name not in known:
        if owner := next((pipeline for pipeline in known if name.startswith(f"{pipeline}-")), ""):
            raise ConfigError(
                f"{name!r} is the name of a run, not of a pipeline",
                where=str(folder),
                hint=f"write the pipeline first: {owner} {name}",
            )
        raise ConfigError(
            f"no pipeline called {name!r}",
            where=str(folder),
            hint=suggestion(name, known) or f"known pipelines: {', '.join(known) or 'none'}",
        )
    for path in files:
        if path.stem == name and path.suffix != ".yaml":
            raise ConfigError(
                "the name of a pipeline's file ends in .yaml",
                where=path.name,
                hint=f"rename it to {name}.yaml, or remove it",
            )
    tree = _tree_of(folder / f"{name}.yaml", overrides)
    if (own := tree.get("pipeline", name)) != name:
        raise ConfigError(
            f"the file holds pipeline {shortened(repr(own))}, whose runs and champion would change",
            where=f"{name}.yaml",
            hint=f"write `pipeline: {name}`, or rename the file",
        )
    return tree


def check_folder(folder: Path) -> None:
    """Raise a ConfigError if the folder of the pipelines does not exist."""
    if not folder.is_dir():
        raise ConfigError(
            "no such folder of pipelines",
            where=str(folder),
            hint="set NIGHTBID_PIPELINES, or `pipelines` in the settings file",
        )


def pipeline_names(folder: Path) -> list[str]:
    """List the names of the pipelines in a folder, sorted; also of those that cannot be loaded."""
    return _names_of(_pipeline_files(folder))


def _names_of(files: Sequence[Path]) -> list[str]:
    return sorted({path.stem for path in files})


def _pipeline_files(folder: Path) -> list[Path]:
    """List YAML files, except hidden ones, such as those that editors and macOS leave."""
    if not folder.is_dir():
        return []
    return [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in (".yaml", ".yml") and not path.name.startswith(".")
    ]


def parse_pipeline(
    text: str, where: str, overrides: Sequence[str] = (), suite: Path | None = None
) -> PipelineSpec:
    """Parse and validate the text of a pipeline YAML; see `load_pipeline`.

    Args:
        text: Content of the pipeline file.
        where: Name of the file, for error messages.
        overrides: `dotted.key=value` settings that take precedence over the file.
        suite: File of learned gate bands and overrides to add to those of the pipeline; None for
            none.
    """
    return validated(_parsed(text, where, overrides, suite), where)


def validated(tree: dict[str, Any], where: str) -> PipelineSpec:
    """Validate the content of a pipeline YAML.

    Raises:
        ConfigError: Keys are unknown or values are invalid; the message names all of them.
    """
    try:
        return PipelineSpec.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(explain(error, PipelineSpec, where), where=where) from error


def _tree_of(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    suite = path.parent / "suites" / path.name
    text = read_text(path, path.name)
    return _parsed(text, path.name, overrides, suite if suite.exists() else None)


def _parsed(text: str, where: str, overrides: Sequence[str], suite: Path | None) -> dict[str, Any]:
    tree = parse_yaml(text, where)
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
    return tree


def _add_suite(tree: dict[str, Any], path: Path) -> None:
    """Add a suite to the `gates` block, so that a run's record has all limits that applied."""
    where = f"suites/{path.name}"
    suite = read_yaml(path, where) or {}
    if not isinstance(suite, dict) or set(suite) - {"bands", "overrides", "seed_noise"}:
        raise ConfigError(
            "a suite has the keys 'bands', 'overrides' and 'seed_noise' only",
            where=where,
            hint=f"`nightbid gates propose {path.stem}` writes one",
        )
    gates = tree.setdefault("gates", {}) or {}
    if not isinstance(gates, dict):
        return  # Validation reports the error.
    for key in ("bands", "overrides"):
        if not isinstance(suite.get(key) or [], list):
            raise ConfigError(
                f"'{key}' is {suite[key]!r}, not a list",
                where=where,
                hint=f"`nightbid gates propose {path.stem}` writes one",
            )
        if not isinstance(gates.get(key) or [], list):
            return
    lists = {key: suite[key] for key in ("bands", "overrides") if key in suite}
    tree["gates"] = {
        **gates,
        **{key: [*(gates.get(key) or []), *(value or [])] for key, value in lists.items()},
        **{key: suite[key] for key in ("seed_noise",) if suite.get(key)},
    }


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(
            f"cannot read the override {shortened(override)!r}",
            where="--set",
            hint="write it as dotted.key=value, for example train.learning_rate=0.002",
        )
    *parents, leaf = key.split(".")
    node: Any = tree
    for depth, parent in enumerate(parents):
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise ConfigError(
                f"{shortened('.'.join(parents[: depth + 1]))} is a value, not a block, in"
                f" {shortened(override)!r}",
                where="--set",
                hint="override a key of an existing block",
            )
    override = shortened(override)
    try:
        node[leaf] = load_value(value, "--set")
    except yaml.YAMLError as error:
        raise ConfigError(
            f"the value of {override!r} is not YAML", where="--set", hint="quote the value"
        ) from error
    except UNREADABLE as error:
        raise ConfigError(
            f"the value of {override!r} cannot be read: {' '.join(str(error).split())}",
            where="--set",
            hint="correct the value, or quote it if it is text",
        ) from error
