"""Pins the settings and the code of a run.

The tasks of a night start hours apart, and files may be edited in between. Every task of a run
therefore uses the settings in the run's record instead of those in the YAML, and refuses to compute
with other code than the run started with. A task that a user clears adopts the current YAML and
code, unless a finished stage that is kept was made with others.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import unified_diff
from functools import cache

import yaml
from pydantic import ValidationError

from nightbid.config.pipeline import PipelineSpec
from nightbid.errors import ConfigError, StageError
from nightbid.night.key import digest_of, library_versions, source_of
from nightbid.night.record import RunRecord
from nightbid.night.stage import Stage
from nightbid.night.stages import NIGHT, all_after

FOR_ALL = ("window", "seed")
"""Settings that every stage depends on."""


@cache
def code_now() -> Mapping[str, str]:
    """Stage → digest of the code and library versions that it would run with now."""
    return {stage.name: _code(source_of(stage), library_versions()) for stage in NIGHT}


def pinned_spec(run: RunRecord, stage: Stage | None = None) -> PipelineSpec:
    """Return the settings that a run started with.

    Args:
        run: Run to read.
        stage: Stage to run now, whose code must be what the run started with; None: not checked.

    Raises:
        StageError: The code is different, or no longer supports these settings.
    """
    again = f"clear {NIGHT[0].name} with Downstream to start over; unchanged stages are reused"
    if stage is not None:
        began = run.head.code.get(stage.name)
        if began and began != _code(source_of(stage), library_versions()):
            raise StageError(
                f"the code of {stage.name} or a library it computes with has changed since this"
                " run began",
                where=run.run_id,
                hint=again,
            )
    try:
        return PipelineSpec.model_validate(run.head.spec)
    except ValidationError as error:
        first = error.errors()[0]
        raise StageError(
            "the settings that this run started with are not valid in this version:"
            f" {'.'.join(map(str, first['loc']))}: {first['msg']}",
            where=run.run_id,
            hint=again,
        ) from None


def pin_again(run: RunRecord, spec: PipelineSpec, stage: Stage) -> RunRecord:
    """Adopt the current settings and code, for a stage that a user starts again.

    Args:
        run: Run to change.
        spec: Current settings.
        stage: Stage that the run resumes from; the stages after it run again too.

    Raises:
        ConfigError: A finished stage that is kept was made with other settings or code.
    """
    stays = [other for other in NIGHT if other != stage and other not in all_after(stage)]
    changed = {other.name: why for other in stays if (why := _change(run, spec, other))}
    if changed:
        names = {*changed, stage.name}
        start = next(
            first for first in reversed(NIGHT)
            if names <= {first.name, *(after.name for after in all_after(first))}
        )  # fmt: skip
        name, why = next(iter(changed.items()))
        raise ConfigError(
            f"{name} of this run was made with other {why}",
            where=run.run_id,
            hint=f"clear {start.name} with Downstream: the whole run then uses the current ones",
        )
    return run.pin(spec, dict(code_now()))


def _change(run: RunRecord, spec: PipelineSpec, stage: Stage) -> str:
    """Describe which setting of a finished stage has changed, or its code; empty if none."""
    record = run.stage(stage.name)
    if record is None or record.state == "failed":
        return ""
    keys = {*stage.spec_keys, *FOR_ALL}
    before = {key: run.head.spec.get(key) for key in keys}
    if before != (now := spec.model_dump(mode="json", include=keys)):
        return f"settings ({_first_difference(before, now)})"
    began = run.head.code.get(stage.name)
    return "code" if began and began != code_now()[stage.name] else ""


def _first_difference(before: Mapping[str, object], now: Mapping[str, object]) -> str:
    old, new = (yaml.safe_dump(dict(tree)).splitlines() for tree in (before, now))
    lines = [line for line in unified_diff(old, new, n=0, lineterm="") if line[:2] in ("+ ", "- ")]
    return ", ".join(line[2:].strip() for line in lines[:2])


def _code(source: str, versions: Mapping[str, str]) -> str:
    return digest_of([source, dict(versions)])
