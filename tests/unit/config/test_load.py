"""An invalid pipeline YAML gives one line: the error, its place and how to fix it."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest
from nightbid.config.load import find_pipeline, parse_pipeline, pipeline_names
from nightbid.config.pipeline import Night, PipelineSpec
from nightbid.config.settings import Settings
from nightbid.errors import ConfigError

GOOD = """
pipeline: tiny
source: {kind: simulator, rows_per_day: 100}
features:
  device_type: {transform: vocabulary}
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "traim: {}\n", ["'traim'", "did you mean 'train'?"]),
        (GOOD + "train: {epoch: 3}\n", ["'train.epoch'", "did you mean 'epochs'?"]),
        (GOOD + "train: {epochs: many}\n", ["train.epochs", "'many'"]),
        (GOOD + "window: {train_days: 0}\n", ["window.train_days", "got 0"]),
        (GOOD + "budget: {stage_usd: {trian: 1}}\n", ["'trian'", "did you mean 'train'?"]),
        (GOOD + "budget: {run_usd: -1}\n", ["budget.run_usd"]),
        (GOOD + "start_date: 2026-02-30\n", ["cannot be read", "day is out of range"]),
        (GOOD + "source: [\n", ["malformed YAML", "bad.yaml:"]),
        (GOOD.replace("pipeline: tiny", "pipeline: Tiny!"), ["pipeline", "'Tiny!'"]),
        ("pipeline: tiny\n", ["'features' is missing"]),
        ("- a list\n", ["a mapping of keys, not list"]),
        (GOOD + "label: {attribution_days: 2}\n", ["label.event_time"]),
        (GOOD.replace("simulator", "simulater"), ["source", "'simulator'"]),
    ],
)
def test_invalid_yaml_is_reported_with_its_key_and_a_fix(text, message):
    with pytest.raises(ConfigError) as caught:
        parse_pipeline(text, "bad.yaml")
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("bad.yaml")
    for part in message:
        assert part in line


def test_a_position_must_be_training_only_and_a_bid_may_be_a_feature():
    slot = GOOD + "  slot: {transform: identity, size: 8%s}\ncolumns: {position: slot, bid: bid}\n"
    with pytest.raises(ConfigError, match="'slot', which ranking decides → set training_only: tr"):
        parse_pipeline(slot % "", "x")
    assert not parse_pipeline(slot % ", training_only: true", "x").position_inputs()
    known = "gates: {features: {position_as_input: {warn: [null, 0]}}}\n"
    assert parse_pipeline(slot % "" + known, "x").position_inputs() == ["slot"]
    # A bid is known before the impression; the price paid is not.
    bid = GOOD + "  bid: numeric\ncolumns: {bid: bid, price: paid}\n"
    assert "bid" in parse_pipeline(bid, "x").features
    with pytest.raises(ConfigError, match=r"columns\.price and known only after"):
        parse_pipeline(bid + "label: {column: click}\n", "x", ["features.paid=numeric"])


def test_overrides_replace_values_of_the_file_and_are_validated():
    spec = parse_pipeline(GOOD, "x", ["train.epochs=7", "source.rows_per_day=5"])
    assert spec.train.epochs == 7
    assert spec.source.rows_per_day == 5
    with pytest.raises(ConfigError, match=r"did you mean 'epochs'"):
        parse_pipeline(GOOD, "x", ["train.epohcs=7"])
    with pytest.raises(ConfigError, match=r"write it as dotted\.key=value"):
        parse_pipeline(GOOD, "x", ["train.epochs"])


def test_a_wrong_pipeline_name_suggests_the_right_one(tmp_path: Path):
    (tmp_path / "tiny.yaml").write_text(GOOD)
    assert find_pipeline("tiny", tmp_path).pipeline == "tiny"
    with pytest.raises(ConfigError, match="did you mean 'tiny'"):
        find_pipeline("tinny", tmp_path)


def test_a_copied_pipeline_does_not_run_under_the_name_of_the_original(tmp_path: Path):
    text = "pipeline: ctr\nfeatures: {ad_id: vocabulary}\n"
    (tmp_path / "mine.yaml").write_text(text)
    message = r"mine\.yaml: the file holds pipeline 'ctr', .* → write `pipeline: mine`"
    with pytest.raises(ConfigError, match=message):
        find_pipeline("mine", tmp_path)
    (tmp_path / "ctr.yaml").write_text(text)
    with pytest.raises(ConfigError, match="the file holds pipeline 'other'"):
        find_pipeline("ctr", tmp_path, ("pipeline=other",))


@pytest.mark.parametrize("name", ["mine.yml", "mine.YAML"])
def test_a_pipeline_whose_file_is_named_otherwise_is_not_overlooked(tmp_path: Path, name: str):
    (tmp_path / name).write_text("pipeline: mine\nfeatures: {ad_id: vocabulary}\n")
    (tmp_path / "._mine.yaml").write_bytes(b"\0")
    assert pipeline_names(tmp_path) == ["mine"]
    with pytest.raises(ConfigError, match=f"{name}: .* ends in .yaml → rename it to mine.yaml"):
        find_pipeline("mine", tmp_path)


def test_every_shipped_pipeline_loads_under_its_own_name():
    folder = Settings().pipelines
    names = pipeline_names(folder)
    assert {"ctr", "cvr"} <= set(names)
    for name in names:
        assert find_pipeline(name, folder).pipeline == name


def test_a_night_splits_by_time_and_waits_for_labels():
    spec = parse_pipeline(
        GOOD + "label: {column: conversion, event_time: t, attribution_days: 2}\n"
        "window: {train_days: 3, validate_days: 1, evaluate_days: 2}\n",
        "x",
    )
    night = Night.of(spec, dt.date(2026, 3, 10))
    days = [*night.days("train"), *night.days("validate"), *night.days("evaluate")]
    assert days == [dt.date(2026, 3, 3) + dt.timedelta(days=n) for n in range(6)]
    assert night.evaluate[-1] == dt.date(2026, 3, 8)


@pytest.mark.parametrize(
    ("suite", "message"),
    [
        (b"bands: caf\xe9\n", "suites/tiny.yaml:1: byte 0xe9 is not UTF-8"),
        (b"overrides: 2026-02-30\n", "suites/tiny.yaml: a value cannot be read"),
        (b"bands: 3\n", "suites/tiny.yaml: 'bands' is 3, not a list"),
    ],
)
def test_a_broken_suite_is_reported_in_one_line(tmp_path: Path, suite: bytes, message: str) -> None:
    (tmp_path / "tiny.yaml").write_text(GOOD)
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "tiny.yaml").write_bytes(suite)
    with pytest.raises(ConfigError) as caught:
        find_pipeline("tiny", tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "block",
    [
        {"baseline": {"column": "legacy_score"}},
        {"label": {"column": "bought_at", "positive": "known", "event_time": "bought_at"}},
        {"label": {"kind": "value", "column": "seconds"}},
        {"columns": {"item": None, "price": "win_price"}, "replay": {"value": 0.03}},
        {
            "source": {"kind": "parquet", "folder": "logs", "partition": "hour"},
            "window": {"train_hours": 60, "validate_hours": 24, "evaluate_hours": 24},
        },
    ],
    ids=lambda block: next(iter(block)),
)
def test_the_settings_that_a_run_records_are_valid_settings(block: dict[str, Any]) -> None:
    spec = PipelineSpec.model_validate({"pipeline": "p", "features": {"a": "vocabulary"}, **block})
    assert PipelineSpec.model_validate(spec.model_dump(mode="json")) == spec
