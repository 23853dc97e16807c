"""What is declared of a stage: the names of its function, of its inputs and of its settings."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # The configuration reads the names of stages: imports go only that way when they run.
    from nightbid.config.pipeline import Night, PipelineSpec


@dataclass(frozen=True)
class Stage:
    """One step of a night. Holds names only, so that declaring a night imports nothing heavy."""

    name: str
    function: str
    """`package.module:function`, imported when the stage runs."""
    inputs: tuple[str, ...]
    spec_keys: tuple[str, ...]
    """Top-level keys of the pipeline YAML that change its output."""
    uses_champion: bool = False
    champion_when: str = ""
    """Dotted key of a setting; unless it is true, the champion is left out after all."""
    earlier_champions: bool = False
    """Whether it also compares with the champions of `evaluate.ratchet_nights` nights before."""
    continues: bool = False
    """Whether it goes on with its own output of an earlier night, in incremental mode."""
    history_of: str | None = None
    is_gate: bool = False
    fingerprint: str = ""
    """`package.module:function(spec, night, cache) -> str` for a stage that depends on what neither
    manifests nor its settings describe: when that changes, so does its key."""
    uses_run: bool = False
    """Output depends on the run itself (its costs, its id): reused only within the run."""
    remote: str = ""
    """`package.module:function(spec, settings) -> nightbid.jobs.job.Work | None`: how a job of
    a cloud service does the work instead; None where this installation has none."""

    def wants_champion(self, spec: PipelineSpec) -> bool:
        """Whether the champion is an input."""
        found: Any = spec
        for part in filter(None, self.champion_when.split(".")):
            found = getattr(found, part)
        return self.uses_champion and bool(found)

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
