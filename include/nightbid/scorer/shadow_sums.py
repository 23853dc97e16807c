"""Differences between the responses of a champion and of a shadow, summed over requests."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

STATE = "shadow.json"


@dataclass
class ShadowComparison:
    """Differences between a champion and a shadow, summed over requests."""

    champion: int
    shadow: str
    """First characters of the digest of the shadow's bundle."""
    run_id: str
    requests: int = 0
    rows: int = 0
    champion_sum: float = 0.0
    """Sum of the champion's probabilities over all rows."""
    shadow_sum: float = 0.0
    difference_sum: float = 0.0
    """Sum of absolute differences of probabilities."""
    largest_difference: float = 0.0
    ordered: int = 0
    """Number of requests with at least two rows, which have an order."""
    winners_changed: int = 0
    tau_sum: float = 0.0
    taus: int = 0
    """Number of requests with a defined Kendall's tau: neither side scores all rows equally."""

    def add(
        self,
        champion: npt.NDArray[np.float64],
        shadow: npt.NDArray[np.float64],
        bids: npt.NDArray[np.float64] | None = None,
    ) -> dict[str, Any]:
        """Add a request, and return its own differences.

        Args:
            champion: Probabilities of the champion, [rows].
            shadow: Probabilities of the shadow, [rows].
            bids: Bids, [rows]; rows are then ordered by bid times probability.
        """
        differences: dict[str, Any] = {"rows": len(champion)}
        self.requests += 1
        if not len(champion):
            return differences
        difference = np.abs(champion - shadow)
        self.rows += len(champion)
        self.champion_sum += float(champion.sum())
        self.shadow_sum += float(shadow.sum())
        self.difference_sum += float(difference.sum())
        self.largest_difference = max(self.largest_difference, float(difference.max()))
        differences |= {"mean_difference": float(difference.mean()),
                        "largest_difference": float(difference.max())}  # fmt: skip
        if len(champion) > 1:
            from scipy.stats import kendalltau  # slow import, not needed by scoring processes

            champion_value, shadow_value = (
                (champion, shadow) if bids is None else (champion * bids, shadow * bids)
            )
            changed = bool(shadow_value[int(champion_value.argmax())] < shadow_value.max())
            self.ordered += 1
            self.winners_changed += changed
            tau = float(kendalltau(champion_value, shadow_value).statistic)
            if not np.isnan(tau):
                self.tau_sum += tau
                self.taus += 1
            differences |= {
                "winner_changed": changed,
                "kendall_tau": None if np.isnan(tau) else tau,
            }
        return differences

    def summary(self) -> dict[str, Any]:
        """Return means and shares; None if nothing was compared."""
        rows, ordered = max(self.rows, 1), max(self.ordered, 1)
        return {
            "champion": self.champion,
            "shadow": self.shadow,
            "run_id": self.run_id,
            "requests": self.requests,
            "rows": self.rows,
            "mean_probability": {
                "champion": self.champion_sum / rows,
                "shadow": self.shadow_sum / rows,
            }
            if self.rows
            else None,
            "mean_difference": self.difference_sum / rows if self.rows else None,
            "largest_difference": self.largest_difference if self.rows else None,
            "winner_changed": self.winners_changed / ordered if self.ordered else None,
            "kendall_tau": self.tau_sum / self.taus if self.taus else None,
        }


@dataclass
class Sums:
    """Totals of a shadow so far."""

    of: str
    skipped: int = 0
    failed: int = 0
    trouble: str = ""
    pairs: dict[str, ShadowComparison] = field(default_factory=dict)


def read(folder: Path) -> Sums | None:
    """Read the totals of a scorer's shadow; None if there are none yet."""
    try:
        sums = json.loads((folder / STATE).read_text())
    except FileNotFoundError:
        return None
    pairs = {name: ShadowComparison(**figures) for name, figures in sums.pop("pairs").items()}
    return Sums(**sums, pairs=pairs)
