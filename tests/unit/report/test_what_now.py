"""The box at the top of a run's page says what to do next."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import pytest
from nightbid.cost.price_book import DEFAULT_BOOK, default_book
from nightbid.night.record import RunRecord
from nightbid.report.run_view import RunView
from nightbid.report.what_now import what_now


def text_of(run: RunRecord) -> str:
    return "\n".join(f"{step.text} {step.command}" for step in what_now(RunView(run)).steps)


@pytest.mark.parametrize(("days", "said"), [(-2, False), (1, True), (29, True), (32, False)])
def test_a_run_in_the_last_month_of_the_prices_says_to_renew_them(
    recorded_run: Callable[..., RunRecord],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    days: int,
    said: bool,
) -> None:
    last = dt.datetime.now(dt.UTC).date() + dt.timedelta(days=days)
    book = tmp_path / "book.yaml"
    book.write_text(DEFAULT_BOOK.read_text().replace("2027-06-30", str(last)))
    monkeypatch.setenv("NIGHTBID_PRICES", str(book))
    default_book.cache_clear()
    try:
        text = text_of(recorded_run())
    finally:
        default_book.cache_clear()
    assert (f"The prices end on {last}" in text) == said


def test_a_stage_without_a_price_says_how_to_add_it(recorded_run: Callable[..., RunRecord]) -> None:
    text = text_of(recorded_run(until="sample", error="price book: no price for a → renew it"))
    assert "NIGHTBID_PRICES" in text
    assert "nightbid cost prices" in text
    assert "data days" not in text
