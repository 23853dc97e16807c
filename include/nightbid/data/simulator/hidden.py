"""What the exchange knows of a row and no log says: effects on the readiness to click."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from nightbid.config.sources import SimulatorSource
from nightbid.data.simulator.draws import Floats
from nightbid.data.simulator.impressions import POSITION_LOGIT
from nightbid.data.simulator.world import FIRST_AD, Users, brand_effect, quality_effect

POSITION = "position"
KEYS = ("user_id", "advertiser_id", "ad_id")
"""Columns whose values have an effect of their own that the logs show through clicks alone."""


class HiddenEffects:
    """Effects on the logit of a click, by value of a column."""

    def __init__(self, settings: SimulatorSource) -> None:
        self._settings = settings
        self._users = Users(settings.seed, settings.users)

    def of(self, column: str, values: pa.Array) -> Floats:
        """Look the effects of distinct values up; float64 [values], in logits.

        Args:
            column: `position`, or one of `KEYS`.
            values: As they are in the logs.

        Raises:
            ValueError: Some are not as the exchange has written them: null, hashed, or of a fault.
        """
        if column == POSITION:
            numbers = np.array([int(each) - 1 for each in _known(values)])
            if len(numbers) and not (numbers.min() >= 0 and numbers.max() < len(POSITION_LOGIT)):
                raise ValueError(f"positions {numbers.min() + 1} to {numbers.max() + 1}")
            return np.asarray(POSITION_LOGIT[numbers], np.float64)
        texts = _known(values)
        if column == "user_id":
            users = np.array([int(each.removeprefix("u")) for each in texts], np.int64)
            if len(users) and users.max() >= self._settings.users:
                raise ValueError(f"user {users.max()}")
            return self._users.taste[users]
        seed = self._settings.seed
        if column == "advertiser_id":
            advertisers = np.array([int(each.removeprefix("adv")) for each in texts], np.int64)
            return brand_effect(seed, advertisers)
        identities = np.array([int(each.removeprefix("a"), 16) for each in texts], np.int64)
        return quality_effect(seed, identities - FIRST_AD)


def _known(values: pa.Array) -> list[str]:
    if values.null_count:
        raise ValueError("a value is missing")
    return [str(each) for each in values.to_pylist()]
