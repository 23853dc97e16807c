"""Declaration of a stage: names of its function, inputs and settings."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # The configuration imports the names of stages, so at runtime there is no import back.
    from nightbid.config.pipeline import Night, PipelineSpec


@dataclass(frozen=True)
class Stage:
    """One step of a night. Holds names only, so that declaring a night imports nothing heavy."""

    name: str
    function: str
    """`package.module:function`, imported when the stage runs."""
    inputs: tuple[str, ...]
    spec_keys: tuple[str, ...]
    """Top-level keys of the pipeline YAML that affect the output."""
    uses_champion: bool = False
    champion_when: str = ""
    """Dotted key of a setting that must be true for the champion to be an input; empty: always."""
    earlier_champions: bool = False
    """Whether it also compares with champions of the last `evaluate.ratchet_nights` nights."""
    continues: bool = False
    """Whether it continues from its own output of an earlier night, in incremental mode."""
    history_of: str | None = None
    is_gate: bool = False
    fingerprint: str = ""
    """`package.module:function(spec, night, cache) -> str`, whose result is part of the key.

    For stages that depend on things that neither manifests nor settings describe."""
    uses_run: bool = False
    """Whether the output depends on the run itself (costs, id) and is reused only within it."""
    remote: str = ""
    """`package.module:function(spec, settings) -> nightbid.jobs.job.Work | None`.

    It describes how a cloud job does the work instead; None if this installation uses none."""

    def wants_champion(self, spec: PipelineSpec) -> bool:
        """Whether the champion is an input."""
        value: Any = spec
        for part in filter(None, self.champion_when.split(".")):
            value = getattr(value, part)
        return self.uses_champion and bool(value)

    def load(self) -> Callable[..., Any]:
        """Import the function, a `nightbid.night.task.StageFunction`."""
        return named(self.function)

    def outside(self, spec: PipelineSpec, night: Night, cache_folder: Path) -> str:
        """Fingerprint of what the stage reads from outside the workspace."""
        return str(named(self.fingerprint)(spec, night, cache_folder)) if self.fingerprint else ""


def named(path: str) -> Callable[..., Any]:
    """Import `package.module:function`."""
    module, _, name = path.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function
