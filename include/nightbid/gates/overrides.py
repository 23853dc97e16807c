"""Overrides, with which a user lets a check pass for a while; the pipeline's suite holds them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nightbid.config.gates import GATES, Override
from nightbid.config.settings import Settings
from nightbid.config.yaml_values import read_yaml
from nightbid.errors import ConfigError
from nightbid.gates.propose import to_yaml
from nightbid.gates.result import known_result
from nightbid.night.record import runs_of
from nightbid.storage.files import write_atomically
from nightbid.storage.workspace import Workspace

NEWEST = 5
"""Number of newest runs that are searched to see whether a check exists."""


def add_override(
    settings: Settings, pipeline: str, check: str, *, name: str, reason: str, until: date
) -> Path:
    """Add an override to a pipeline's suite.

    Args:
        settings: Settings that name the folder of the suites and the workspace.
        pipeline: Name of the pipeline.
        check: `gate/statistic` as the gate's page shows it; `*` matches any text.
        name: Name of the user who decides.
        reason: Reason why the override is safe.
        until: Last night on which the override applies.

    Returns:
        Path of the suite's file.

    Raises:
        ConfigError: There is no such check, or name or reason is too short.
    """
    gate, _, statistic = check.partition("/")
    if gate not in GATES or not statistic:
        raise ConfigError(
            f"cannot read the check {check!r}",
            where="override",
            hint=f"write it as gate/statistic, with gate one of {', '.join(GATES)}",
        )
    _refuse_unknown(Workspace(settings.workspace), pipeline, gate, statistic)
    values = {"gate": gate, "check": statistic, "name": name, "reason": reason, "until": until}
    try:
        entry = Override.model_validate(values)
    except ValidationError as error:
        fault = error.errors()[0]
        if fault["loc"] in (("name",), ("reason",)):
            raise ConfigError(
                "an override needs a name and a reason of at least eight characters",
                where="override",
                hint="say who decides this and why it is safe",
            ) from error
        message = str(fault["msg"]).removeprefix("Value error, ")
        raise ConfigError(
            message, where="override", hint=f"`nightbid gates show {pipeline}` lists the checks"
        ) from error
    path = settings.pipelines / "suites" / f"{pipeline}.yaml"
    suite = read_suite(path)
    suite.setdefault("overrides", []).append(entry.model_dump(mode="json"))
    write_suite(path, pipeline, suite)
    return path


def read_suite(path: Path) -> dict[str, Any]:
    """Read a suite; empty if there is none.

    Raises:
        ConfigError: The file is not valid YAML.
    """
    suite = read_yaml(path, f"suites/{path.name}") if path.exists() else {}
    if not isinstance(suite or {}, dict):
        raise ConfigError(
            "a suite is a block of keys",
            where=f"suites/{path.name}",
            hint=f"`nightbid gates propose {path.stem}` writes one",
        )
    return dict(suite or {})


def write_suite(path: Path, pipeline: str, suite: dict[str, Any]) -> None:
    """Write a suite atomically."""
    write_atomically(path, to_yaml(pipeline, suite))


def _refuse_unknown(workspace: Workspace, pipeline: str, gate: str, statistic: str) -> None:
    """Refuse a check that the newest nights have not measured; without nights, accept any."""
    measured = set(_measured(workspace, pipeline, gate))
    if not measured or any(fnmatchcase(name, statistic) for name in measured):
        return
    family = statistic.partition(":")[0]
    close = difflib.get_close_matches(statistic, measured, 3, 0.5)
    close = close or sorted(name for name in measured if name.partition(":")[0] == family)[:3]
    raise ConfigError(
        f"the {gate} gate has measured no {statistic!r} on its newest nights",
        where="override",
        hint=f"did you mean {' or '.join(map(repr, close))}?"
        if close
        else f"`nightbid gates show {pipeline} RUN` lists its checks",
    )


def _measured(workspace: Workspace, pipeline: str, gate: str) -> Iterable[str]:
    looked = 0
    for run in reversed(runs_of(workspace, pipeline)):
        record = run.stage(f"gate_{gate}")
        if record is None or not record.uri:
            continue
        result = known_result(workspace.at(record.uri))
        if result is None:
            continue
        looked += 1
        for fact in result.get("facts") or ():
            yield str(fact[0])
        if looked == NEWEST:
            return
