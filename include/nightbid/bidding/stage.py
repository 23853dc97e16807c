"""Replay stage: estimates the returns of a run's models on the evaluate rows.

Writes `replay.json` with the figures and `auctions.parquet` with a row per auction, which
`nightbid bids` reads. With a `policy` block it also writes `policy.parquet`.
"""

from __future__ import annotations

from dataclasses import replace

from nightbid.bidding.off_policy import policy_sentence, policy_value
from nightbid.night.task import Outcome, StageTask

NOT_SET = "no replay: the pipeline has no `replay` block"


def run(task: StageTask) -> Outcome:
    """Replay every model's bids on the same auctions, and evaluate the models as policies.

    Raises:
        MissingDataError: The evaluation kept no scores, or there are no rows with prices.
        CorruptDataError: Too many rows have no usable price or propensity, or the unit of prices
            changed.
    """
    settings = task.spec.replay
    replayed = Outcome(metrics={"replayed": False}, summary=NOT_SET)
    if settings is not None:
        # It imports Numba, which takes longer than any other part of this stage.
        from nightbid.bidding.night_replay import replay_night

        replayed = replay_night(task, settings)
    if task.spec.policy is None:
        return replayed
    policy = policy_value(task)
    sentence = policy_sentence(policy)
    return replace(
        replayed,
        metrics={**replayed.metrics, "policy": policy},
        summary=sentence if settings is None else f"{replayed.summary}; {sentence}",
    )
