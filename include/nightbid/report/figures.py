"""Names of the metrics of an evaluation, for probabilities and for values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class FigureWords:
    """Names of the metrics for a kind of label, in the order of tables, and related words."""

    names: Mapping[str, str]
    rank: str
    """Ranking metric that verdicts use."""
    loss: str
    """Loss that verdicts use; lower is better."""
    losses: tuple[str, ...]
    """Metrics for which lower is better, in comparisons of runs."""
    validation: str
    """Validation loss for early stopping."""
    less: str
    """Sentence that says for which metrics lower is better."""
    positive: str
    """Name of a row with label 1."""
    rank_short: str
    loss_short: str

    def __getitem__(self, name: str) -> str:
        return self.names[name]


PROBABILITIES = FigureWords(
    {
        "auc": "AUC",
        "gauc": "GAUC",
        "pr_auc": "PR-AUC",
        "ndcg": "NDCG",
        "log_loss": "Log loss",
        "normalized_entropy": "Normalized entropy",
        "calibration": "Calibration",
        "ece": "ECE",
    },
    rank="auc",
    loss="normalized_entropy",
    losses=("log_loss", "normalized_entropy"),
    validation="log loss",
    less="Normalized entropy, log loss and ECE: lower is better.",
    positive="positive",
    rank_short="AUC",
    loss_short="NE",
)
VALUES = FigureWords(
    {
        "gini": "Gini",
        "rank_correlation": "Rank correlation",
        "deviance": "Deviance",
        "normalized_deviance": "Normalized deviance",
        "mae": "MAE",
        "rmse": "RMSE",
        "calibration": "Calibration",
    },
    rank="gini",
    loss="normalized_deviance",
    losses=("deviance", "normalized_deviance"),
    validation="deviance",
    less="Deviance, MAE and RMSE: lower is better.",
    positive="with a value above 0",
    rank_short="Gini",
    loss_short="normalized deviance",
)


def words_of(metrics: Mapping[str, Any]) -> FigureWords:
    """Get the names for the metrics of an evaluation, or of a training that says its label kind."""
    return VALUES if metrics.get("kind") == "value" else PROBABILITIES
