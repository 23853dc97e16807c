"""Documentation of tasks in Airflow: their group, what they do, and what a failure means."""

from __future__ import annotations

import inspect

from nightbid.config.gates import Gates
from nightbid.night.stage import Stage
from nightbid.night.stages import NIGHT

GROUPS = {
    "data": "The logs of the window become model inputs.",
    "model": "Candidate and baseline are trained and judged on the newest rows.",
    "serving": "The candidate is exported, loaded, and promoted.",
}
"""Group → what its tasks do."""
_BEGINS = {"sample": "data", "train": "model", "export": "serving"}
"""Stage → the group that starts with it."""
_STOPS = (
    " If it stops the night, later tasks do not run and the champion stays. The *Nightbid* button"
    " shows"
    " each check, what it means and what to do."
)
_AGAIN = " A failed attempt leaves no output; clearing the task is safe."

TASKS = {
    "arrival": "Waits until the newest day of logs is complete, as defined by the pipeline's "
    "`arrival` block. At the deadline it accepts an older day, if `arrival` allows it, or stops"
    " the night.",
    "sample": "Reads the window's days, parses the labels, and quarantines rows that cannot be"
    " parsed." + _AGAIN,
    "featurize": "Computes the model inputs with Beam; vocabularies are learned from training days."
    + _AGAIN,
    "train": "Trains the candidate." + _AGAIN,
    "train_baseline": "Trains the baseline." + _AGAIN,
    "evaluate": "Scores candidate, champion and baseline on the same newest rows." + _AGAIN,
    "replay": "Replays the bids of each model against logged prices, if the pipeline has a"
    " `replay` block." + _AGAIN,
    "export": "Trains once more on all days, unless `train.refit` says otherwise, and"
    " writes the bundle that the scorer serves." + _AGAIN,
    "load_test": "Sends requests to the bundle and measures latency and throughput." + _AGAIN,
    "approve": "Waits for a user to approve the promotion. After a rejection, or without an "
    "answer in time, the champion stays and the run ends as stopped.",
    "promote": "Makes the candidate the champion if it passed every gate and is not worse.",
    "watch_cost": "Watches the cost of running stages and cancels those that exceed a limit.",
    "report": "Writes the run's page and logs the run in MLflow, however the night ended.",
}
"""Task → its documentation in Markdown; gates take theirs from their limits."""


def doc_of(stage: Stage) -> str:
    """Get the documentation of a stage's task, in Markdown."""
    if not stage.is_gate:
        return TASKS[stage.name]
    limits = getattr(Gates(), stage.name.removeprefix("gate_"))
    return f"Checks: {inspect.getdoc(type(limits))}{_STOPS}"


def group_of(stage: Stage) -> str:
    """Get the name of the group that a stage belongs to."""
    before = NIGHT[: NIGHT.index(stage) + 1]
    return next(_BEGINS[earlier.name] for earlier in reversed(before) if earlier.name in _BEGINS)
