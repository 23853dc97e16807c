"""Execution of a sweep: the shared stages once, then one trial after the other, within budget."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable
from decimal import Decimal
from functools import cache

import optuna

from nightbid.config.costs import Budget
from nightbid.config.load import find_pipeline
from nightbid.config.pipeline import PipelineSpec
from nightbid.config.settings import Settings
from nightbid.cost.forecast import forecast_stages
from nightbid.cost.ledger import Ledger, total
from nightbid.cost.money import shown
from nightbid.errors import BudgetExceeded, NightbidError, TrialPruned
from nightbid.night.progress import EpochWatcher, Progress, silent, unwatched
from nightbid.night.record import RunRecord
from nightbid.night.stages import stage_named
from nightbid.night.task import StageOutput
from nightbid.runner import run_stage
from nightbid.storage.workspace import Workspace
from nightbid.sweep.study import Sweep, Trial, TrialStatus

SHARED = ("sample", "gate_raw", "featurize", "gate_features")
TRIAL = ("sample", "featurize", "train")
"""Stages of a trial. If its values change no feature, the first two are reused."""
LOG = logging.getLogger(__name__)
Bars = Callable[[str], Progress]


def no_bars(stage: str) -> Progress:
    """Return a no-op progress callback."""
    return silent


def prepare(sweep: Sweep, settings: Settings, bars: Bars = no_bars) -> list[StageOutput]:
    """Run the stages that all trials share: sampling and featurization, with their gates.

    Args:
        sweep: Sweep to prepare.
        settings: Settings of the installation.
        bars: Function from a stage's name to its progress callback.

    Raises:
        NightbidError: The logs are not fit for training, so no trial can run.
    """
    spec = find_pipeline(sweep.head.pipeline, settings.pipelines, sweep.space.fixed)
    run = _run(sweep, spec, settings, f"{sweep.head.name}-shared", sweep.space.fixed, SHARED[-1])
    return [_stage(name, spec, run, settings, progress=bars(name)) for name in SHARED]


def run_trial(sweep: Sweep, number: int, settings: Settings, bars: Bars = no_bars) -> Trial:
    """Run trial `number`, unless it is finished. Its errors are stored with it.

    Args:
        sweep: Sweep of the trial.
        number: Number of the trial, from 1.
        settings: Settings of the installation.
        bars: Function from a stage's name to its progress callback.

    Raises:
        BudgetExceeded: The rest of the sweep's budget is too small for another trial.
    """
    before = next((trial for trial in sweep.trials() if trial.number == number), None)
    if before is not None and before.state != "running":
        return before
    left = check_budget(sweep, settings)
    trial, handle = sweep.propose(number)
    if handle is None:
        return trial
    figures: dict[str, object] = {}
    state: TrialStatus = "done"
    reason = ""
    try:
        figures = _train(sweep, trial, handle, settings, bars, left)
    except TrialPruned as error:
        state, reason = "pruned", str(error)
    except NightbidError as error:
        state, reason = "failed", str(error)
    except Exception as error:
        LOG.exception("trial %d", number)
        state, reason = "failed", f"{type(error).__name__}: {error}"
    figures["cost_usd"] = cost_of(sweep, trial.run_id, settings)
    sweep.end(handle, state, figures, reason)
    _forget_graphs()
    return next(trial for trial in sweep.trials() if trial.number == number)


def cost_of(sweep: Sweep, run_id: str, settings: Settings) -> Decimal:
    """Return the cost of a run of the sweep so far, all attempts, in USD at cloud prices."""
    ledger = Ledger(Workspace(settings.workspace))
    return total(ledger.entries(pipeline=sweep.head.pipeline, run_id=run_id)).amount


def spent(sweep: Sweep, settings: Settings) -> Decimal:
    """Return the cost of the sweep so far: the shared stages and every trial, in USD."""
    runs = [f"{sweep.head.name}-shared"]
    runs += [sweep.run_id(trial.number) for trial in sweep.trials()]
    return sum((cost_of(sweep, run_id, settings) for run_id in runs), Decimal(0))


def forecast(sweep: Sweep, settings: Settings) -> Decimal | None:
    """Forecast the cost of the sweep from nights before its start, in USD; None without any.

    Reused stages and pruned trials cost less than forecast.
    """
    times = {**dict.fromkeys(SHARED, 1), "train": sweep.head.trials}
    return forecast_stages(
        Workspace(settings.workspace), sweep.head.pipeline, times, before=sweep.head.started
    )


def check_budget(sweep: Sweep, settings: Settings) -> Decimal | None:
    """Return the budget that is left for another trial.

    Returns:
        The rest of the budget in USD; None without a budget.

    Raises:
        BudgetExceeded: Another trial, at the mean cost so far, would exceed the budget.
    """
    budget = sweep.head.budget_usd
    if budget is None:
        return None
    used = spent(sweep, settings)
    costs = [
        cost_of(sweep, trial.run_id, settings) for trial in sweep.trials() if trial.state == "done"
    ]
    expected = sum(costs, Decimal(0)) / len(costs) if costs else Decimal(0)
    if used + expected >= budget:
        raise BudgetExceeded(
            f"{shown(used)} USD of {shown(budget)} USD are spent, and a trial costs"
            f" {shown(expected)} USD",
            where=f"sweep {sweep.head.name}",
            hint="run the same command with a larger --budget: it resumes here",
        )
    return budget - used


def _train(
    sweep: Sweep,
    trial: Trial,
    handle: optuna.Trial,
    settings: Settings,
    bars: Bars,
    left: Decimal | None,
) -> dict[str, object]:
    spec = find_pipeline(sweep.head.pipeline, settings.pipelines, trial.overrides)
    if left is not None:
        own = spec.budget.run_usd
        limit = left if own is None else min(own, left)
        budget = Budget.model_validate({**spec.budget.model_dump(), "run_usd": limit})
        spec = spec.model_copy(update={"budget": budget})
    run = _run(sweep, spec, settings, trial.run_id, trial.overrides, TRIAL[-1])

    def watch(epoch: int, log_loss: float, auc: float | None) -> None:
        value = auc if sweep.head.metric == "auc" else log_loss
        if value is None:
            return
        handle.report(value, epoch)
        if handle.should_prune():
            raise TrialPruned(
                f"{sweep.head.metric} {value:.5f} after epoch {epoch} is worse than the median",
                where=trial.run_id,
            )

    for name in TRIAL:
        result = _stage(name, spec, run, settings, progress=bars(name), watch=watch)
    metrics = result.manifest.metrics
    return {
        "log_loss": metrics["validation"]["log_loss"],
        "auc": metrics["validation"]["auc"],
        "parameters": metrics["parameters"],
        "epochs": metrics["epochs"],
        "seconds": sum(record.seconds for record in run.records()),
    }


def _run(
    sweep: Sweep,
    spec: PipelineSpec,
    settings: Settings,
    run_id: str,
    overrides: tuple[str, ...],
    until: str,
) -> RunRecord:
    return RunRecord.start(
        Workspace(settings.workspace),
        spec,
        sweep.head.date,
        run_id=run_id,
        overrides=overrides,
        trigger="sweep",
        sweep=sweep.head.name,
        until=until,
    )


def _stage(
    name: str,
    spec: PipelineSpec,
    run: RunRecord,
    settings: Settings,
    progress: Progress,
    watch: EpochWatcher = unwatched,
) -> StageOutput:
    return run_stage(
        stage_named(name),
        spec,
        run,
        cache_folder=settings.cache,
        attempt=run.next_attempt(name),
        progress=progress,
        watch=watch,
    )


def _forget_graphs() -> None:
    """Free the last trial's graphs: a sweep may train hundreds of models in one process."""
    if (keras := sys.modules.get("keras")) is not None:
        # This also collects garbage.
        keras.backend.clear_session()
        _keep_libraries()


@cache
def _keep_libraries() -> None:
    """Exclude the libraries' objects from garbage collection, which took seconds per trial."""
    gc.freeze()
