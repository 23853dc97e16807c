"""What Airflow shows of each task: its group, and what it does and means when it fails."""

from __future__ import annotations

GROUPS = {
    "data": "The logs of the window become model inputs.",
    "model": "Candidate and baseline are trained and judged on the newest rows.",
    "serving": "The candidate is exported, loaded, and promoted.",
}
"""Group → what its tasks do together."""
_DATA = ("arrival", "sample", "gate_raw", "featurize", "gate_features")
_MODEL = ("train", "train_baseline", "evaluate", "gate_model", "replay", "gate_value")
_STOPS = (
    " When it stops, nothing after it runs and the champion stays. The *Nightbid* button shows"
    " each check, what it means and what to do."
)
_AGAIN = " A failed attempt leaves no output; clearing the task is safe."

STAGES = {
    "arrival": "Waits until the newest day of logs is complete, by the pipeline's `arrival` block."
    " At the deadline it accepts an older day, if the block says so, or stops the night.",
    "sample": "Reads the window's days, parses the labels, sets aside rows that cannot be parsed."
    + _AGAIN,
    "gate_raw": "Compares each day with the days before: volume, drift, labels, leaks." + _STOPS,
    "featurize": "Computes the model inputs with Beam; vocabularies are learned from training days."
    + _AGAIN,
    "gate_features": "Compares the model inputs with earlier nights and the champion's." + _STOPS,
    "train": "Trains the candidate." + _AGAIN,
    "train_baseline": "Trains the baseline." + _AGAIN,
    "evaluate": "Scores candidate, champion and baseline on the same newest rows." + _AGAIN,
    "gate_model": "Judges the candidate: worse, badly calibrated, too good to be true." + _STOPS,
    "replay": "Bids the predictions on logged prices, where the pipeline has a `replay` block."
    + _AGAIN,
    "gate_value": "Judges what the bids would have earned." + _STOPS,
    "export": "Writes the bundle that the scorer serves." + _AGAIN,
    "load_test": "Sends requests to the bundle and measures latency and throughput." + _AGAIN,
    "gate_serving": "Judges parity, skew, latency and throughput." + _STOPS,
    "gate_cost": "Judges what the run cost against its budget." + _STOPS,
    "approve": "Asks a person whether to promote. A rejection, or no answer in time, keeps the"
    " champion and ends the run as stopped.",
    "promote": "Makes the candidate the champion if every gate has passed and it is not worse.",
    "watch_cost": "Watches what the running stages cost, and cancels them over a limit.",
    "report": "Writes the run's page and logs the run in MLflow, however the night ended.",
}
"""Task → its documentation, in Markdown."""


def group_of(stage: str) -> str:
    """Name of the group that a stage belongs to."""
    if stage in _DATA:
        return "data"
    return "model" if stage in _MODEL else "serving"
