"""Makes the plan of a rehearsal: rows, locks and seeds."""

from __future__ import annotations

import hashlib
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory

from nightbid.config.load import find_pipeline
from nightbid.config.settings import Settings
from nightbid.counts import counted
from nightbid.errors import ConfigError, MissingDataError
from nightbid.night.record import RunRecord, runs_of, safe_run_id
from nightbid.rehearse.environments import find_uv
from nightbid.rehearse.locks import Lock, resolve
from nightbid.rehearse.plan import RehearsalPlan
from nightbid.sampling.frozen import freeze, load
from nightbid.storage.workspace import Workspace


def candidate_lock(
    requirements: Path | None,
    upgrades: tuple[str, ...],
    present: Path,
    *,
    newest: bool = False,
) -> Lock:
    """Get the candidate lock; resolve it if only some packages are given.

    Args:
        requirements: Path of a complete lock; None for none.
        upgrades: Pins of single packages, `name==version`.
        present: Path of the present lock.
        newest: Whether to use the newest versions that the `.in` file next to the present lock
            allows.

    Raises:
        ConfigError: Not exactly one of the options is given, or no set of versions fits.
    """
    if bool(requirements) + bool(upgrades) + newest != 1:
        raise ConfigError(
            "a rehearsal needs exactly one candidate",
            where="rehearse",
            hint="pass either --requirements candidate.txt, --upgrade name==version or --newest",
        )
    if requirements is not None:
        return Lock.read(requirements)
    source = present.with_suffix(".in")
    if not source.exists():
        raise ConfigError(
            f"no {source.name} next to the present lock: nothing to resolve",
            where=str(present.parent),
            hint="pass the whole candidate lock with --requirements",
        )
    with TemporaryDirectory(prefix="nightbid-lock-") as folder:
        return resolve(() if newest else upgrades, source, present, Path(folder), find_uv())


def plan_rehearsal(
    pipeline: str,
    settings: Settings,
    *,
    present: Lock,
    candidate: Lock,
    run_id: str = "",
    frozen: str = "",
    overrides: tuple[str, ...] = (),
    seeds: int = 5,
    margin: float | None = None,
    latency: bool = True,
    bisect: bool = True,
    budget_usd: Decimal | None = None,
    minutes: float | None = None,
    name: str = "",
) -> RehearsalPlan:
    """Plan a rehearsal of the rows that a night has sampled, or of a frozen data set.

    Args:
        pipeline: Name of the pipeline.
        settings: Settings of the installation.
        present: Lock of the running environment.
        candidate: Lock to rehearse.
        run_id: Run whose rows are used; empty: the newest one with sampled rows.
        frozen: Name of a frozen data set to use instead; empty: none.
        overrides: `key=value` settings of the pipeline, the same on both sides.
        seeds: Number of trainings on each side, at least 2.
        margin: Largest difference in normalized entropy that does not matter; None: the pipeline's
            `evaluate.margin_ne`.
        latency: Whether to load-test as well, about 20 s per seed and side.
        bisect: Whether to search for the packages that cause a change.
        budget_usd: Limit on the cost of all processes, at cloud prices; None: no limit.
        minutes: Minutes after which no step of the bisection starts; None: no limit.
        name: Name of the rehearsal; empty: derived from what is rehearsed.

    Raises:
        ConfigError: Seeds or margin are out of their range.
        MissingDataError: There are no rows to use.
    """
    spec = find_pipeline(pipeline, settings.pipelines, overrides)
    if seeds < 2:
        raise ConfigError(
            f"{counted(seeds, 'seed')}: no spread is seen",
            where="--seeds",
            hint="use at least 2, preferably 5",
        )
    limit = spec.evaluate.margin_ne if margin is None else margin
    if not limit > 0:
        raise ConfigError(
            f"margin {limit}: no two trainings are that close", where="--margin", hint="try 0.002"
        )
    workspace = Workspace(settings.workspace)
    if not frozen:
        run = _run_with_rows(workspace, pipeline, run_id)
        frozen = f"rehearsal-{run.run_id}".lower()[:80]
        data = freeze(workspace, run, frozen, reason="rehearsal of an upgrade")
    else:
        data = load(workspace, frozen)
    plan = RehearsalPlan(
        name="",
        pipeline=pipeline,
        date=data.night,
        overrides=overrides,
        frozen=frozen,
        seeds=seeds,
        first_seed=spec.train.seed,
        margin=limit,
        present=dict(present.pins),
        candidate=dict(candidate.pins),
        latency=latency,
        bisect=bisect,
        budget_usd=budget_usd,
        minutes=minutes,
    )
    loose = plan.model_dump_json(exclude={"name", "bisect", "budget_usd", "minutes"})
    digest = hashlib.sha256(f"{loose}{present.digest}{candidate.digest}".encode()).hexdigest()[:8]
    default = f"rehearsal-{pipeline}-{data.night}-{digest}"
    return plan.model_copy(update={"name": safe_run_id(name or default)})


def _run_with_rows(workspace: Workspace, pipeline: str, run_id: str) -> RunRecord:
    if run_id:
        return RunRecord.load(workspace, pipeline, run_id)
    for run in reversed(runs_of(workspace, pipeline)):
        record = run.stage("sample")
        if record is not None and record.state == "done":
            return run
    raise MissingDataError(
        f"no night of {pipeline!r} has sampled rows",
        where=str(workspace.root),
        hint=f"run one first: `nightbid run {pipeline} --date … --until sample`",
    )
