"""Did the night keep to its budget."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from functools import partial

from nightbid.cost.ledger import Ledger, totals
from nightbid.gates.gate import run_gate
from nightbid.gates.measurements import Measurements
from nightbid.night.task import Outcome, StageTask


def run(task: StageTask) -> Outcome:
    """Price what the run has used so far, retries included, and judge it by the budget."""
    spent: dict[str, Decimal] = {}
    outcome = run_gate(task, "cost", partial(measure, spent=spent))
    budget = task.spec.budget.run_usd
    metrics = {
        **outcome.metrics,
        "total_usd": float(sum(spent.values(), Decimal(0))),
        "by_stage": {stage: float(usd) for stage, usd in spent.items()},
        "budget_usd": float(budget) if budget is not None else None,
    }
    return replace(outcome, metrics=metrics)


def measure(task: StageTask, spent: dict[str, Decimal]) -> Measurements:
    """Collect what each stage cost, at cloud prices, as shares of the limits.

    Args:
        task: of the run whose records are priced.
        spent: is filled with stage → USD.

    Raises:
        PriceError: two currencies meet.
    """
    measurements = Measurements()
    budget = task.spec.budget
    entries = Ledger(task.workspace, lenient=True).entries(
        pipeline=task.spec.pipeline, run_id=task.run_id
    )
    spent.update({stage: money.amount for stage, money in totals(entries, "stage").items()})
    total = sum(spent.values(), Decimal(0))
    if budget.run_usd is None:
        measurements.skip(f"the run's total of {total:.4f} USD: the budget block has no run_usd")
    else:
        measurements.add(
            "run_share", float(total / budget.run_usd), note=f"{total:.4f} of {budget.run_usd} USD"
        )
    for stage, limit in budget.stage_usd.items():
        cost = spent.get(stage, Decimal(0))
        measurements.add(
            "stage_share", float(cost / limit), subject=stage, note=f"{cost:.4f} of {limit} USD"
        )
    return measurements
