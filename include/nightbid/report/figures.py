"""What the figures of an evaluation are called, of probabilities and of values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class FigureWords:
    """Figures of one kind of label, in the order of tables, and the words around them."""

    names: Mapping[str, str]
    rank: str
    """The figure of ranking that verdicts use."""
    loss: str
    """The loss that verdicts use; less is better."""
    losses: tuple[str, ...]
    """Figures of which less is better, compared run by run."""
    validation: str
    """The loss that stops a training."""
    less: str
    """What is better when it is less, as a sentence."""
    positive: str
    """What a row of label 1 is called."""
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
    less="Normalized entropy, log loss and ECE: less is better.",
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
    less="Deviance, MAE and RMSE: less is better.",
    positive="with a value above 0",
    rank_short="Gini",
    loss_short="normalized deviance",
)


def words_of(metrics: Mapping[str, Any]) -> FigureWords:
    """Words for the figures of an evaluation, or of a training (which may say what it predicts)."""
    return VALUES if metrics.get("kind") == "value" else PROBABILITIES
