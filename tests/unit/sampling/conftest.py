"""Fixtures of the tests of sampling."""

from __future__ import annotations

from datetime import timedelta

import pytest

from .event_logs import DAY, at, put


@pytest.fixture
def logs(tmp_path):
    """Write four impressions of a day, two of the day before, and events of both days."""
    folder = tmp_path / "logs"
    for day, ids in ((DAY - timedelta(days=1), ["y", "z"]), (DAY, ["a", "b", "c", "d"])):
        put(folder, "impressions", day, impression_id=ids, user_id=ids, ad_id=ids,
            time=[at(1 + n, day) for n in range(len(ids))])  # fmt: skip
    put(folder, "clicks", DAY, impression_id=["a", "a", "a", "y", "lost", None, "b"],
        time=[at(2), at(3), at(3), at(1), at(2), at(2), at(1)])  # fmt: skip
    put(folder, "clicks", DAY + timedelta(days=1), impression_id=["c", "d", "never"],
        time=[at(26), at(28.5), at(30)])  # fmt: skip
    put(folder, "conversions", DAY, impression_id=["a", "d"], time=[at(2.5), at(6)],
        amount=[3.5, 2.0])  # fmt: skip
    put(folder, "conversions", DAY + timedelta(days=1), impression_id=["a"], time=[at(25)],
        amount=[1.5])  # fmt: skip
    return folder
