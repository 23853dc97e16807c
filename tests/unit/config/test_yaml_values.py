"""Values of a YAML mean what people mean by them; what YAML would change silently is refused."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from nightbid.config.load import parse_pipeline
from nightbid.config.settings import Settings
from nightbid.config.yaml_values import load_value
from nightbid.cost.price_book import DEFAULT_BOOK, PriceBook
from nightbid.errors import ConfigError, PriceError

HEAD = "pipeline: tiny\nfeatures: {device_type: vocabulary}\n"
TEXTS = ["on", "off", "yes", "no", "Y", "16:00", "010", "1e3", "0o7", "1:30:00"]


@pytest.mark.parametrize("text", TEXTS)
def test_texts_that_yaml_1_1_reads_as_another_value_stay_texts(text: str) -> None:
    assert load_value(f"{text}: {text}", "") == {text: text}


SCALAR = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


@pytest.mark.slow
@given(st.recursive(SCALAR, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_what_is_written_as_yaml_is_read_as_it_was(value: object) -> None:
    assert load_value(yaml.safe_dump(value), "") == value


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("columns: {user: on}", "columns.user", "on"),
        ("window: {train_days: 014}", "window.train_days", 14),
        ("approval: yes", "approval", True),
        ("approval: off", "approval", False),
        ("train: {learning_rate: 2e-3}", "train.learning_rate", 0.002),
    ],
)
def test_fields_accept_values_as_people_write_them(text: str, key: str, value: object) -> None:
    found: object = parse_pipeline(f"{HEAD}{text}\n", "tiny.yaml")
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value
    setting = f"{key}={text.rpartition(': ')[2].rstrip('}')}"
    assert parse_pipeline(HEAD, "tiny.yaml", [setting]) == parse_pipeline(HEAD + text, "tiny.yaml")


def test_a_column_called_on_can_be_a_feature() -> None:
    spec = parse_pipeline("pipeline: tiny\nfeatures: {on: vocabulary}\n", "tiny.yaml")
    assert list(spec.features) == ["on"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("window: {}\nwindow: {}", "tiny.yaml:4: malformed YAML: the key 'window' occurs twice"),
        ("train: {epochs: 1, epochs: 2}", ":3: malformed YAML: the key 'epochs' occurs twice"),
        ("window:\n\ttrain_days: 3", "tiny.yaml:4: malformed YAML: a tab indents the line, which"),
        ("window: {train_days: 1:30}", "window.train_days: must be a whole number, got '1:30'"),
        ("columns: {user: 123}", "columns.user: must be text; write it in quotes, got 123"),
    ],
)  # fmt: skip
def test_a_value_with_two_meanings_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r"tiny\.yaml") as error:
        parse_pipeline(f"{HEAD}{text}\n", "tiny.yaml")
    assert message in str(error.value)


def test_merged_mappings_may_be_overridden_and_merged_again() -> None:
    text = "a: &a {x: 1, y: 2}\nb: &b {<<: *a, y: 3}\nc: {<<: *b, x: 4}\nd: [*a, *b]\n"
    tree = load_value(text, "")
    assert tree["c"] == {"x": 4, "y": 3}
    assert tree["d"] == [{"x": 1, "y": 2}, {"x": 1, "y": 3}]


def test_repeated_keys_of_settings_and_price_books_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("poll_seconds: 5\npoll_seconds: 50\n")
    monkeypatch.setenv("NIGHTBID_SETTINGS", str(file))
    with pytest.raises(ConfigError, match=r"the key 'poll_seconds' occurs twice"):
        Settings()
    file.write_text("- poll_seconds\n")
    with pytest.raises(
        ConfigError, match=r"settings are a mapping of keys, not \['poll_seconds'\]"
    ):
        Settings()
    book = tmp_path / "prices.yaml"
    book.write_text(DEFAULT_BOOK.read_text() + "\nlocal: {}\nlocal: {}\n")
    with pytest.raises(PriceError, match="the key 'local' occurs twice"):
        PriceBook.load(book)


@pytest.mark.parametrize("text", ["06:00+02:00", "06:00Z"])
def test_a_deadline_with_an_offset_is_refused(text: str) -> None:
    block = (
        f"source: {{kind: csv, folder: /logs}}\narrival: {{marker: _SUCCESS, deadline: '{text}'}}\n"
    )
    with pytest.raises(ConfigError, match="has a UTC offset; write only the time"):
        parse_pipeline(HEAD + block, "tiny.yaml")


@pytest.mark.parametrize(("text", "seconds"), [("16:00", 0), ("'16:00:30'", 30)])
def test_a_deadline_needs_no_quotes_and_may_have_seconds(text: str, seconds: int) -> None:
    block = (
        f"source: {{kind: csv, folder: /logs}}\narrival: {{marker: _SUCCESS, deadline: {text}}}\n"
    )
    spec = parse_pipeline(HEAD + block, "tiny.yaml")
    ends = dt.datetime(2026, 3, 2, 16, 0, seconds, tzinfo=dt.UTC)
    assert spec.arrival_deadline(dt.date(2026, 3, 1)) == ends
