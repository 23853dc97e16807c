"""Optimal real-time bidding (ORTB) with a win curve F and the budget multiplier λ.

Zhang, Yuan and Wang, Optimal Real-Time Bidding for Display Advertising, KDD 2014, with the value v
of the impression (for `per` impressions):

    ORTB 1, F(b) = b / (c + b)        bid = √(c · v / λ + c²) − c
    ORTB 2, F(b) = b² / (c² + b²)     bid = c · (y^⅓ − y^(−⅓)),  y = (v + √(c²λ² + v²)) / (c · λ)

Both maximize (v − λ · b) · F(b), as if the winner paid its bid.

Statistical arbitrage (Zhang and Wang, KDD 2015) is ORTB 1 with a factor on the value:

    SAM 2                             bid = √(c · a · v + c²) − c
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nightbid.bidding.checks import Floats


@dataclass(frozen=True)
class Ortb1:
    """Linear-form ORTB: √(c · scale · pCTR + c²) − c, where scale is V · per / λ."""

    c: float
    """Price at which half of the auctions are won; see `landscape.fit_half_price`."""
    scale: float

    def bids(self, pctr: Floats) -> Floats:
        """Return one bid per prediction; float64 [rows]."""
        return np.sqrt(pctr * self.c * self.scale + self.c**2) - self.c


@dataclass(frozen=True)
class Ortb2:
    """Quadratic-form ORTB."""

    c: float
    value_per_click: float
    multiplier: float
    """λ, the marginal value of budget; 1 if the budget does not bind in first price."""
    per: float = 1000.0

    def bids(self, pctr: Floats) -> Floats:
        """Return one bid per prediction; float64 [rows]."""
        value = self.per * self.value_per_click * pctr
        edge = self.c * self.multiplier
        root = np.cbrt((value + np.sqrt(edge**2 + value**2)) / edge)
        return self.c * (root - 1 / root)


@dataclass(frozen=True)
class Arbitrage:
    """SAM 2: √(per · V · c · pCTR · factor + c²) − c."""

    c: float
    value_per_click: float
    factor: float
    per: float = 1000.0

    def bids(self, pctr: Floats) -> Floats:
        """Return one bid per prediction; float64 [rows]."""
        scaled = self.per * self.value_per_click * self.c * pctr * self.factor
        return np.sqrt(scaled + self.c**2) - self.c
