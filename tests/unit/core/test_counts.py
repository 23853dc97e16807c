"""Counts of one have a noun and a verb of one."""

from __future__ import annotations

import pytest
from nightbid.counts import are, counted


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 rows are"), (1, "1 row is"), (2, "2 rows are"), (1234, "1,234 rows are")],
)
def test_nouns_and_verbs_agree_with_their_count(count: int, text: str) -> None:
    assert f"{counted(count, 'row')} {are(count)}" == text


def test_a_plural_of_its_own() -> None:
    assert counted(1, "entry", "entries") == "1 entry"
    assert counted(2, "entry", "entries") == "2 entries"
