"""The same bid for every auction: bid = b."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nightbid.bidding.checks import Floats


@dataclass(frozen=True)
class Constant:
    """bid = b."""

    bid: float

    def bids(self, pctr: Floats) -> Floats:
        """Return one bid per prediction; float64 [rows]."""
        return np.full(len(pctr), float(self.bid))
