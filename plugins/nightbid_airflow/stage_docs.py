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
    " When it stops, nothing after it runs and the champion stays. The *Nightbid* button shows"
    " each check, what it means and what to do."
)
_AGAIN = " A failed attempt leaves no output; clearing the task is safe."

TASKS = {
    "arrival": "Waits until the newest day of logs is complete, by the pipeline's `arrival` block."
    " At the deadline it accepts an older day, if the block says so, or stops the night.",
    "sample": "Reads the window's days, parses the labels, sets aside rows that cannot be parsed."
    + _AGAIN,
    "featurize": "Computes the model inputs with Beam; vocabularies are learned from training days."
    + _AGAIN,
    "train": "Trains the candidate." + _AGAIN,
    "train_baseline": "Trains the baseline." + _AGAIN,
    "evaluate": "Scores candidate, champion and baseline on the same newest rows." + _AGAIN,
    "replay": "Bids the predictions on logged prices, where the pipeline has a `replay` block."
    + _AGAIN,
    "export": "Trains once more on all days, unless `train.refit` says otherwise, and"
    " writes the bundle that the scorer serves." + _AGAIN,
    "load_test": "Sends requests to the bundle and measures latency and throughput." + _AGAIN,
    "approve": "Asks a person whether to promote. A rejection, or no answer in time, keeps the"
    " champion and ends the run as stopped.",
    "promote": "Makes the candidate the champion if every gate has passed and it is not worse.",
    "watch_cost": "Watches what the running stages cost, and cancels them over a limit.",
    "report": "Writes the run's page and logs the run in MLflow, however the night ended.",
}
"""Task → its documentation in Markdown; gates take theirs from their limits."""


def doc_of(stage: Stage) -> str:
    """Get the documentation of a stage's task, in Markdown."""
    if not stage.is_gate:
        return TASKS[stage.name]
    limits = getattr(Gates(), stage.name.removeprefix("gate_"))
    return f"Judges: {inspect.getdoc(type(limits))}{_STOPS}"


def group_of(stage: Stage) -> str:
    """Get the name of the group that a stage belongs to."""
    before = NIGHT[: NIGHT.index(stage) + 1]
    return next(_BEGINS[earlier.name] for earlier in reversed(before) if earlier.name in _BEGINS)
