"""Any YAML, override or record gives a one-line error at most, never a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nightbid.config.load import find_pipeline, parse_pipeline
from nightbid.config.pipeline import Night
from nightbid.cost.ledger_files import read_batch
from nightbid.errors import ConfigError, CorruptDataError
from nightbid.gates.overrides import read_suite
from nightbid.gates.result import read_result
from nightbid.night.attempts import StageRecord
from nightbid.night.champion import Champion
from nightbid.night.head import RunHead
from nightbid.night.manifest import Manifest
from nightbid.night.sealed import Sealed, seal, unseal
from upath import UPath

SHIPPED = Path(__file__).resolve().parents[3] / "include" / "pipelines" / "ctr.yaml"
NOW = datetime(2026, 1, 9, tzinfo=UTC)
RECORDS: tuple[Sealed, ...] = (
    Champion(
        pipeline="p", number=1, run_id="r", night=date(2026, 1, 8), bundle_uri="b",
        bundle_digest="d", since=NOW, change="promote", reason="better",
    ),
    RunHead(pipeline="p", run_id="r", date=date(2026, 1, 8), started=NOW, spec={"a": [1, None]}),
    StageRecord(stage="train", state="done", started=NOW, seconds=1.5, summary="ü"),
    Manifest(
        pipeline="p", run_id="r", stage="train", night="2026-01-08", key="k", digest="d", inputs={},
        spec_digest="s", code_digest="c", versions={}, seed=0, created=NOW,
    ),
)  # fmt: skip
BOUNDED = settings(max_examples=60, derandomize=True)
LINES = SHIPPED.read_text().splitlines()
WORDS = st.sampled_from(
    ["null", "[]", "{}", "- 1", "1e999", ".nan", "!!python/object:os.system x", "&a *a", "\t", "%",
     "2026-02-30", "'", "0x1F", "true", "${HOME}", "? :", "<<: 1", "\ud7ff", "-1", "1" * 400]
)  # fmt: skip


def refusal(work: Callable[[], object]) -> str:
    """Return the message of Nightbid's error, or ""; any other error fails the test."""
    try:
        work()
    except (ConfigError, CorruptDataError) as error:
        return str(error)
    return ""


@st.composite
def edited(draw: st.DrawFn) -> str:
    """A shipped pipeline with some lines removed, repeated, moved or given other values."""
    lines = list(LINES)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(lines) - 1))
        how = draw(st.sampled_from(["lose", "double", "value", "indent", "text"]))
        if how == "lose":
            del lines[at]
        elif how == "double":
            lines.insert(at, lines[at])
        elif how == "value":
            lines[at] = lines[at].partition(":")[0] + ": " + draw(WORDS)
        elif how == "indent":
            lines[at] = " " * draw(st.integers(0, 6)) + lines[at].lstrip()
        else:
            lines[at] = draw(st.text(max_size=30))
    return "\n".join(lines)


@given(edited())
@BOUNDED
def test_any_edited_pipeline_loads_or_fails_with_a_message(tmp_path: Path, text: str) -> None:
    (tmp_path / "ctr.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    message = refusal(lambda: find_pipeline("ctr", tmp_path))
    assert not message or "ctr" in message


@given(st.binary(max_size=300))
@BOUNDED
def test_random_bytes_are_rejected_as_a_pipeline(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ctr.yaml").write_bytes(content)
    with pytest.raises(ConfigError):
        find_pipeline("ctr", tmp_path)


@given(
    st.one_of(
        st.text(max_size=60),
        st.tuples(
            st.sampled_from(["train.epochs", "features.ad_id", "gates.raw", "window", "a.b", "."]),
            st.one_of(WORDS, st.text(max_size=20)),
        ).map("=".join),
    )
)
@BOUNDED
def test_any_override_is_applied_or_fails_with_a_message(text: str) -> None:
    refusal(lambda: find_pipeline("ctr", SHIPPED.parent, (text,)))


@given(st.sampled_from(RECORDS), st.data())
@BOUNDED
def test_a_record_with_altered_bytes_is_rejected_by_its_checksum(
    record: Sealed, data: st.DataObject
) -> None:
    text = bytearray(seal(record).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at] = data.draw(st.integers(0, 255))
    records: list[Sealed] = []
    message = refusal(
        lambda: records.append(unseal(type(record), bytes(text), "x.json", "restore it"))
    )
    # White space may differ; older versions wrote records without a checksum.
    assert message or records == [record] or b'"checksum"' not in text
    assert not message or (message.startswith("x.json: ") and "\n" not in message)


@given(st.one_of(st.binary(max_size=80), st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
).map(lambda tree: json.dumps(tree).encode())))  # fmt: skip
@BOUNDED
def test_an_invalid_gate_result_is_rejected(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "gate.json").write_bytes(content)
    with pytest.raises(CorruptDataError, match=r"gate\.json"):
        read_result(UPath(tmp_path))


def test_yaml_anchors_that_expand_too_far_are_rejected() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    tree = "\n".join(f"    {line}" for line in lines)
    for text in (
        f"pipeline: p\nmodel:\n  parameters:\n{tree}\nevaluate: {{slices: *a11}}\n",
        "pipeline: p\nfeatures: &f {ad_id: {columns: [*f]}}\n",
    ):
        with pytest.raises(ConfigError, match=r"anchors .* expand to more than 100,000 values"):
            parse_pipeline(text, "p.yaml")
    shared = "pipeline: p\nfeatures: {a: &u {transform: vocabulary, min_count: 5}, b: *u}\n"
    assert parse_pipeline(shared, "p.yaml").features.keys() == {"a", "b"}


def test_yaml_merge_keys_that_expand_too_far_are_rejected() -> None:
    lines = ["x0: &x0 {a: 1}"]
    lines += [f"x{n}: &x{n} {{<<: [{', '.join([f'*x{n - 1}'] * 10)}]}}" for n in range(1, 12)]
    with pytest.raises(ConfigError, match=r"anchors .* expand to more than 100,000 values"):
        parse_pipeline("\n".join(["pipeline: p", *lines]), "p.yaml")


@pytest.mark.slow
@pytest.mark.parametrize("value", ["[" * 20_000 + "]" * 20_000, "9" * 100_000])
def test_a_huge_yaml_value_is_reported_in_one_short_line(tmp_path: Path, value: str) -> None:
    message = refusal(lambda: find_pipeline("ctr", SHIPPED.parent, (f"train.epochs={value}",)))
    assert message.startswith("--set: the value of 'train.epochs=")
    assert len(message) < 1000
    message = refusal(lambda: parse_pipeline(f"pipeline: p\nseed: {value}", "p.yaml"))
    assert message.startswith("p.yaml: a value cannot be read: ")
    suites = tmp_path / "suites"
    suites.mkdir()
    (suites / "ctr.yaml").write_text(f"overrides: [{value}]")
    message = refusal(lambda: read_suite(suites / "ctr.yaml"))
    assert message.startswith("suites/ctr.yaml: a value cannot be read: ")


def test_a_long_text_in_place_of_a_number_is_quoted_in_part() -> None:
    message = refusal(lambda: parse_pipeline("pipeline: p\nseed: 1" + ":59" * 50_000, "p.yaml"))
    assert message.startswith("p.yaml: ")
    assert "seed: must be a whole number, got '1:59" in message
    assert len(message) < 1000


@pytest.mark.parametrize("read", [lambda text: read_batch(text, "x.json"), lambda text: unseal(
    StageRecord, b'{"stage": ' + text + b"}", "x.json", "restore it")])  # fmt: skip
@pytest.mark.parametrize("value", [b"[" * 100_000 + b"]" * 100_000, b"9" * 100_000])
def test_a_huge_record_is_reported_in_one_short_line(
    read: Callable[[bytes], object], value: bytes
) -> None:
    message = refusal(lambda: read(value))
    assert message.startswith("x.json: not a readable")
    assert "\n" not in message
    assert len(message) < 1000


@pytest.mark.parametrize("night", [date.min, date.max])
def test_a_window_beyond_the_calendar_is_rejected(night: date) -> None:
    text = "pipeline: p\nfeatures: {ad_id: vocabulary}\nlabel: {column: click}\n"
    spec = parse_pipeline(text, "p.yaml")
    if night == date.max:
        assert Night.of(spec, night).date == night
        return
    with pytest.raises(ConfigError, match="is outside the calendar"):
        Night.of(spec, night)
    with pytest.raises(ConfigError, match=r"window\.train_days: .* less than or equal to 3660"):
        parse_pipeline(text, "p.yaml", ["window.train_days=999999999999"])
