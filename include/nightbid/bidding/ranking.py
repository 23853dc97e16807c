"""Orders ads by eCPM and prices their slots: GSP, VCG or first price.

Ads bid per click. An ad's score is bid × quality, its expected value per impression; eCPM is
1,000 times that. Slots are separable: the click probability of ad `a` in slot `j` is
exposure[j] × quality[a] (Varian 2007; Edelman, Ostrovsky and Schwarz 2007).

Each ad has a reserve per click, r(a) = max(reserve, ecpm_floor / (1000 × quality[a])). Ads that
bid less, or whose score is 0, are left out. The rest are ordered by score; of equal scores the ad
listed first ranks higher. Prices per click, with s(j) the score in place j (0 past the last ad):

    GSP    price(j) = max(r(a), s(j+1) / quality(a))
    VCG    price(j) = Σ over k ≥ j of (exposure[k] − exposure[k+1]) × max(r(a), s(k+1) / quality(a))
                      / exposure[j]
    first  price(j) = the bid

With one slot GSP and VCG are both the second price. Truth-telling is a best response under VCG,
but not under GSP with two slots or more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from nightbid.bidding.checks import Floats, Ints, at_least_zero
from nightbid.errors import DataError

Pricing = Literal["gsp", "vcg", "first"]
PER_MILLE = 1000.0


@dataclass(frozen=True)
class Ranking:
    """Shown ads and their prices. Arrays are [..., slots], best slot first."""

    order: Ints
    """Index of the ad in each slot; −1 for an empty slot."""
    ecpm: Floats
    """1,000 × bid × quality of that ad; 0 for an empty slot."""
    price: Floats
    """Price per click; 0 for an empty slot."""
    payment: Floats
    """Expected payment per impression of the page: exposure × quality × price."""

    @property
    def filled(self) -> int:
        """Number of filled slots, over all auctions."""
        return int((self.order >= 0).sum())


def rank(
    bids: npt.ArrayLike,
    quality: npt.ArrayLike,
    *,
    exposure: Sequence[float] = (1.0,),
    reserve: float = 0.0,
    ecpm_floor: float = 0.0,
    pricing: Pricing = "gsp",
) -> Ranking:
    """Rank the ads of one auction, or of many of the same width, and price each slot.

    Args:
        bids: [..., ads] bids per click, in any currency.
        quality: [..., ads] click probability of each ad in a slot of exposure 1.
        exposure: Relative click probability of each slot, best first; (1.0,) is a single slot.
        reserve: Minimum price per click, in the currency of the bids.
        ecpm_floor: Minimum price per thousand impressions, in the currency of the bids.
        pricing: `gsp`, `vcg` or `first`.

    Raises:
        DataError: Bids or qualities are negative, missing or of different shapes, or the exposures
            are not positive and non-increasing.
    """
    offered, shown = at_least_zero("bids", bids), at_least_zero("quality", quality)
    slots = np.asarray(exposure, np.float64)
    _check(offered, shown, slots, reserve, ecpm_floor, pricing)
    ads = offered.shape[-1]
    score = offered * shown
    least = np.full(offered.shape, reserve, np.float64)
    if ecpm_floor:
        np.maximum(
            least,
            np.divide(
                ecpm_floor / PER_MILLE, shown, out=np.full_like(shown, np.inf), where=shown > 0
            ),
            out=least,
        )
    eligible = (score > 0) & (offered >= least)
    score = np.where(eligible, score, 0.0)

    depth = max(len(slots), ads)
    places = np.argsort(-score, axis=-1, kind="stable")
    ranked = _padded(np.take_along_axis(score, places, -1), depth + 1)
    places = np.asarray(_padded(places, depth), np.int64)[..., : len(slots)]
    filled = ranked[..., : len(slots)] > 0
    order = np.where(filled, places, -1)
    of = np.where(filled, places, 0)
    own = np.take_along_axis(shown, of, -1) if ads else np.zeros(filled.shape)
    own = np.where(filled, own, 1.0)
    bid = np.where(filled, np.take_along_axis(offered, of, -1) if ads else 0.0, 0.0)
    floor = np.where(filled, np.take_along_axis(least, of, -1) if ads else 0.0, 0.0)
    below = ranked[..., 1 : len(slots) + 1]

    if pricing == "first":
        price = bid
    elif pricing == "gsp":
        price = np.maximum(floor, below / own)
    else:
        price = _vcg(below, own, floor, slots)
    # A quotient of products can exceed the bid due to rounding.
    price = np.where(filled, np.minimum(price, bid), 0.0)
    return Ranking(
        order=order,
        ecpm=np.where(filled, ranked[..., : len(slots)] * PER_MILLE, 0.0),
        price=price,
        payment=np.where(filled, slots * own * price, 0.0),
    )


def _vcg(below: Floats, own: Floats, floor: Floats, slots: Floats) -> Floats:
    """Sum the scores below as thresholds per click, weighted by the exposure gained at each."""
    gain = slots - np.append(slots[1:], 0.0)
    # [..., slot of the ad, threshold at or below it]
    thresholds = np.maximum(floor[..., :, None], below[..., None, :] / own[..., :, None])
    at_or_below = np.triu(np.ones((len(slots), len(slots))))
    total: Floats = (thresholds * gain * at_or_below).sum(axis=-1) / slots
    return total


def _padded(values: npt.NDArray[np.generic], width: int) -> Floats:
    missing = width - values.shape[-1]
    if missing <= 0:
        return np.asarray(values)
    return np.concatenate([values, np.zeros((*values.shape[:-1], missing), values.dtype)], axis=-1)


def _check(
    bids: Floats,
    quality: Floats,
    slots: Floats,
    reserve: float,
    ecpm_floor: float,
    pricing: str,
) -> None:
    if bids.ndim == 0 or bids.shape != quality.shape:
        raise DataError(
            f"bids have the shape {list(bids.shape)}, quality {list(quality.shape)}",
            hint="pass one bid and one quality per ad",
        )
    if (
        slots.ndim != 1
        or not len(slots)
        or not (np.isfinite(slots) & (slots > 0)).all()
        or (np.diff(slots) > 0).any()
    ):
        raise DataError(
            f"exposure is {slots.tolist()}",
            hint="list the slots from best to worst, each above 0, such as 1, 0.8, 0.6",
        )
    for name, value in (("reserve", reserve), ("ecpm_floor", ecpm_floor)):
        if not (np.isfinite(value) and value >= 0):
            raise DataError(f"{name} is {value:g}", hint=f"{name} must be at least 0")
    if pricing not in ("gsp", "vcg", "first"):
        raise DataError(f"pricing is {pricing!r}", hint="use gsp, vcg or first")
