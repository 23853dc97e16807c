"""Hidden effects on the click probability, which the exchange knows and no log contains."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from nightbid.config.sources import SimulatorSource
from nightbid.data.simulator.draws import Floats
from nightbid.data.simulator.impressions import POSITION_LOGIT
from nightbid.data.simulator.world import FIRST_AD, Users, brand_effect, quality_effect

POSITION = "position"
KEYS = ("user_id", "advertiser_id", "ad_id")
"""Columns whose values have effects that the logs show only through clicks."""


class HiddenEffects:
    """Effects of a column's values on the click logit."""

    def __init__(self, settings: SimulatorSource) -> None:
        self._settings = settings
        self._users = Users(settings.seed, settings.users)

    def of(self, column: str, values: pa.Array) -> Floats:
        """Look up the effects of distinct values; float64 [values], in logits.

        Args:
            column: `position`, or one of `KEYS`.
            values: Values as they are in the logs.

        Raises:
            ValueError: A value does not come from the exchange: it is null, hashed, or from a
                fault.
        """
        if column == POSITION:
            numbers = np.array([int(text) - 1 for text in _known(values)])
            if len(numbers) and not (numbers.min() >= 0 and numbers.max() < len(POSITION_LOGIT)):
                raise ValueError(f"positions {numbers.min() + 1} to {numbers.max() + 1}")
            return np.asarray(POSITION_LOGIT[numbers], np.float64)
        texts = _known(values)
        if column == "user_id":
            users = np.array([int(text.removeprefix("u")) for text in texts], np.int64)
            if len(users) and users.max() >= self._settings.users:
                raise ValueError(f"user {users.max()}")
            return self._users.taste[users]
        seed = self._settings.seed
        if column == "advertiser_id":
            advertisers = np.array([int(text.removeprefix("adv")) for text in texts], np.int64)
            return brand_effect(seed, advertisers)
        identities = np.array([int(text.removeprefix("a"), 16) for text in texts], np.int64)
        return quality_effect(seed, identities - FIRST_AD)


def _known(values: pa.Array) -> list[str]:
    if values.null_count:
        raise ValueError("a value is missing")
    return [str(value) for value in values.to_pylist()]
