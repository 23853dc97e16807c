"""Cost gate: whether the night is within its budget."""

from __future__ import annotations

from decimal import Decimal

from nightbid.cost.ledger import Ledger, totals
from nightbid.gates.gate import gate
from nightbid.gates.measurements import Measurements
from nightbid.night.task import StageTask


@gate("cost")
def measure(task: StageTask) -> Measurements:
    """Measure the cost of each stage, including retries, at cloud prices as a share of its limit.

    Raises:
        PriceError: The costs are in different currencies.
    """
    measurements = Measurements()
    budget = task.spec.budget
    entries = Ledger(task.workspace, lenient=True).entries(
        pipeline=task.spec.pipeline, run_id=task.run_id
    )
    spent = {stage: money.amount for stage, money in totals(entries, "stage").items()}
    total = sum(spent.values(), Decimal(0))
    measurements.metrics = {
        "total_usd": float(total),
        "by_stage": {stage: float(usd) for stage, usd in spent.items()},
        "budget_usd": None if budget.run_usd is None else float(budget.run_usd),
    }
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
