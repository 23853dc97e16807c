"""Column names of the simulated logs, in order, in a module without heavy imports."""

from __future__ import annotations

from nightbid.config.sources import SimulatorSource
from nightbid.schema import CANDIDATES_TRUTH

ALWAYS = (
    "impression_id", "time", "user_id", "ad_id", "position", "age_band", "gender", "region",
    "language", "interests", "account_age_days", "advertiser_id", "ad_category",
    "creative_format", "ad_age_days", "site_id", "page_category", "device_type", "os",
    "connection", "hour", "session_depth", "seconds_since_last_ad", "viewability", "floor_price",
    "bid", "win_price", "click", "click_time", "conversion", "conversion_time", "p_click_true",
    "p_conversion_true", "conversion_delay_true",
)  # fmt: skip


def logged_columns(settings: SimulatorSource) -> tuple[str, ...]:
    """Names of the columns of a day without faults."""
    names = list(ALWAYS)
    if settings.incumbent is not None:
        names.append("legacy_score")
    if settings.competing_bids:
        names.append("competing_bids")
    if settings.exploration is not None:
        names += ["propensity", "candidates", CANDIDATES_TRUTH]
    return tuple(names)
