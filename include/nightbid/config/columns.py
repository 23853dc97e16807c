"""Roles of the columns of a log: the typed `columns` block."""

from __future__ import annotations

from nightbid.config.base import Block


class Columns(Block):
    """Roles of the log columns. Some sources have their own defaults."""

    key: str = "impression_id"
    """Column that identifies an impression; sampling and sharding hash it."""
    time: str = "time"
    """When the impression was served: a timestamp, seconds since 1970, or text. Times without a
    zone are in `source.time_zone`."""
    user: str = "user_id"
    """User of the impression; confidence intervals resample by it."""
    anonymous: tuple[str, ...] = ()
    """Further values of `user` that mean that there is none, such as `"-"` or `"0"`. Null, empty
    text and the UUID of zeros always do. Such a row counts as a user of its own, without history;
    see [data](data.md#rows-without-a-user)."""
    item: str | None = "ad_id"
    """Ad or item that was shown; null if no column names it. Default of `obd`: `item_id`; of the
    layout avazu: `C14`; of ipinyou: `creative_id`; of criteo: null."""
    position: str | None = None
    """Slot on the page, if logged: a training-only input."""
    price: str | None = None
    """Market price: the highest competing bid, which the winner of a second-price auction pays."""
    bid: str | None = None
    """Bid of the bidder that wrote the logs. Rows with a bid below the floor or price are
    reported."""
    floor: str | None = None
    """Floor price: the lowest price that the seller accepts; null values mean no floor."""
    weight: str | None = None
    """Weight of a row in training, calibration and evaluation, from 0 to 1,000,000. Rows with
    weight 0 are left out. Must not be a feature."""
    value: str | None = None
    """Monetary value of the labeled event; may be null where the event did not happen."""
    conversion: str | None = None
    """0/1 column of an event that follows the label, such as a purchase after the click. `replay`
    counts it on the impressions that a model wins. Null counts as 0. Must not be a feature."""
    currency: str | None = None
    """Currency of the prices. `replay` leaves out rows whose currency is not the most frequent one
    of the validate days."""
    competing: str | None = None
    """List column with all competing bids, if they are logged. `price` must be the highest of them
    or the floor. A replay is then exact under any floor."""
    propensity: str | None = None
    """Probability with which the logging policy showed the logged item, for `policy`. Default of
    `obd`: `propensity_score`."""
    candidates: str | None = None
    """List column with the items that could have been shown, for `policy`; default: every item
    that occurs in the evaluate rows."""

    @property
    def by_role(self) -> dict[str, str]:
        """Role → its column, for roles that have one."""
        named = {role: column for role, column in self if isinstance(column, str)}
        return {role: column for role, column in named.items() if column}

    @property
    def turnover(self) -> tuple[str, ...]:
        """Columns whose values appear and disappear from day to day: users and items."""
        return tuple(filter(None, (self.user, self.item, self.candidates)))
