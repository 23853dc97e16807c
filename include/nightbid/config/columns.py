"""What the columns of a log mean: the typed `columns` block."""

from __future__ import annotations

from nightbid.config.base import Block


class Columns(Block):
    """Roles of the log columns. A source has its own defaults."""

    key: str = "impression_id"
    """Identifies an impression; sampling and sharding hash it."""
    time: str = "time"
    """When the impression was served: timestamp, UTC."""
    user: str = "user_id"
    """User of the impression; confidence intervals resample by it."""
    item: str | None = "ad_id"
    """Ad or item that was shown; null if no column names it. Default of `obd`: `item_id`; of the
    layout avazu: `C14`; of ipinyou: `creative_id`; of criteo: null."""
    position: str | None = None
    """Slot on the page, if logged: a training-only input."""
    price: str | None = None
    """Market price: the highest competing bid, which the winner paid in second price."""
    bid: str | None = None
    """What the logging bidder bid; rows whose bid is below the floor or price are checked."""
    floor: str | None = None
    """Least price that the seller took; null is none."""
    weight: str | None = None
    """What a row counts in training, calibration and evaluation, from 0 to 1,000,000; rows of 0
    are left out. Never a feature."""
    value: str | None = None
    """Money that the labeled event brought; may be null where it did not happen."""
    conversion: str | None = None
    """0/1 column of what followed the label, such as a purchase after the click: `replay` counts it
    among what was won. Null is 0. Never a feature."""
    currency: str | None = None
    """Currency of the prices. Rows in another one than most of the validate days are not
    replayed."""
    competing: str | None = None
    """List of all competing bids, where they are logged. `price` has to be the highest of them or
    the floor, and a replay is then exact under any floor."""
    propensity: str | None = None
    """Probability with which the logged item was shown, for `policy`. Default of `obd`:
    `propensity_score`."""
    candidates: str | None = None
    """List of the items that could have been shown, for `policy`; default: every item that the
    evaluate rows show."""

    @property
    def turnover(self) -> tuple[str, ...]:
        """Columns whose values come and go from day to day: users and items."""
        return tuple(filter(None, (self.user, self.item, self.candidates)))
