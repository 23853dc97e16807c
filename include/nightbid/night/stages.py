"""The stages of a night, in order.

The DAG is generated from the same list, so the shell and Airflow run the same night.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from nightbid.errors import ConfigError
from nightbid.night.stage import Stage


def _gate(
    name: str, inputs: tuple[str, ...], spec_keys: tuple[str, ...] = (), **settings: Any
) -> Stage:
    """Declare the stage `gate_<name>`, which judges the module's `measure` by the `gates` block."""
    return Stage(
        f"gate_{name}",
        f"nightbid.gates.{name}:measure",
        inputs=inputs,
        spec_keys=(*spec_keys, "gates"),
        is_gate=True,
        **settings,
    )


_JUDGED: tuple[Stage, ...] = (
    Stage(
        "sample",
        "nightbid.sampling.stage:run",
        inputs=(),
        spec_keys=("source", "columns", "label", "sampling"),
        fingerprint="nightbid.sampling.stage:fingerprint",
        remote="nightbid.sampling.remote:work",
    ),
    _gate(
        "raw",
        inputs=("sample",),
        spec_keys=("source", "columns", "label", "features"),
        history_of="sample",
    ),
    Stage(
        "featurize",
        "nightbid.featurize.stage:run",
        inputs=("sample",),
        spec_keys=("columns", "label", "features"),
        remote="nightbid.featurize.remote:work",
    ),
    _gate(
        "features",
        inputs=("featurize", "sample"),
        spec_keys=("columns", "label", "features"),
        history_of="featurize",
        uses_champion=True,
    ),
    Stage(
        "train",
        "nightbid.training.stage:run",
        inputs=("featurize",),
        spec_keys=("model", "train", "label"),
        uses_champion=True,
        champion_when="train.starts_warm",
        continues=True,
        remote="nightbid.training.remote:candidate",
    ),
    Stage(
        "train_baseline",
        "nightbid.training.stage:run_baseline",
        inputs=("featurize",),
        spec_keys=("baseline", "train", "label"),
        continues=True,
        remote="nightbid.training.remote:baseline",
    ),
    Stage(
        "evaluate",
        "nightbid.evaluation.stage:run",
        inputs=("sample", "featurize", "train", "train_baseline"),
        spec_keys=("columns", "label", "evaluate", "features", "baseline"),
        uses_champion=True,
        earlier_champions=True,
    ),
    _gate(
        "model",
        inputs=("evaluate", "train"),
        spec_keys=("evaluate", "model", "train", "label"),
    ),
    Stage(
        "replay",
        "nightbid.bidding.stage:run",
        inputs=("sample", "featurize", "train", "evaluate"),
        spec_keys=("replay", "policy", "columns", "label", "features", "evaluate"),
        uses_champion=True,
        champion_when="policy",
    ),
    _gate(
        "value",
        inputs=("replay",),
    ),
    Stage(
        "export",
        "nightbid.serving.export:run",
        inputs=("sample", "featurize", "train"),
        spec_keys=("columns", "features", "model", "train", "label"),
        fingerprint="nightbid.serving.refitted:fingerprint",
    ),
    Stage(
        "load_test",
        "nightbid.serving.load_test:run",
        inputs=("export", "sample"),
        spec_keys=("columns", "load_test", "serve"),
        uses_champion=True,
        champion_when="serve",
    ),
    _gate(
        "serving",
        inputs=("load_test", "export"),
    ),
    _gate(
        "cost",
        inputs=("evaluate", "load_test"),
        spec_keys=("budget",),
        uses_run=True,
    ),
)

NIGHT: tuple[Stage, ...] = (
    *_JUDGED,
    Stage(
        "promote",
        "nightbid.promotion:run",
        # All gates are inputs: an unread gate could not prevent the promotion.
        inputs=("export", "evaluate", *(stage.name for stage in _JUDGED if stage.is_gate)),
        spec_keys=("approval", "baseline"),
        uses_champion=True,
        uses_run=True,
    ),
)
"""All stages of a night, in an order that satisfies their inputs."""
STAGES: tuple[str, ...] = tuple(stage.name for stage in NIGHT)
"""Names of the stages, in the same order."""


def stage_named(name: str) -> Stage:
    """Look up a stage by its name.

    Raises:
        ConfigError: A night has no stage of this name.
    """
    for stage in NIGHT:
        if stage.name == name:
            return stage
    close = get_close_matches(name, STAGES, 1)
    raise ConfigError(
        f"a night has no stage {name!r}",
        hint=f"did you mean {close[0]!r}?" if close else "stages: " + ", ".join(STAGES),
    )


def upstream(stage: Stage, night: Sequence[Stage] = NIGHT) -> tuple[str, ...]:
    """Name the stages that a stage waits for; a gate holds back everything after it.

    A gate waits for all stages since the previous gate, whether or not it reads them. Earlier
    stages are already finished then, so only inputs since that gate are named, or the gate itself.
    """
    before = list(night[: night.index(stage)])
    gates = [at for at, earlier in enumerate(before) if earlier.is_gate]
    since = before[gates[-1] + 1 :] if gates else before
    read = {name for reader in (*since, stage) for name in reader.inputs}
    inputs = tuple(
        earlier.name
        for earlier in since
        if earlier.name in stage.inputs or (stage.is_gate and earlier.name not in read)
    )
    return inputs or ((before[gates[-1]].name,) if gates else ())


def readers_of(name: str) -> frozenset[str]:
    """Name the stages whose output depends on that of a stage, directly or indirectly."""
    readers = {name}
    for stage in NIGHT:
        if readers.intersection(stage.inputs):
            readers.add(stage.name)
    return frozenset(readers - {name})


def all_after(stage: Stage) -> tuple[Stage, ...]:
    """List the stages that wait for a stage, directly or indirectly."""
    names = {stage.name}
    for other in NIGHT:
        if names & set(upstream(other)):
            names.add(other.name)
    return tuple(other for other in NIGHT if other.name in names and other != stage)
