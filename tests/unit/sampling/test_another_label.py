"""Pipelines with different labels read the logs once; later ones reuse the sampled rows."""

from __future__ import annotations

import gzip
import json
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nightbid.config.pipeline import PipelineSpec
from nightbid.data import units
from nightbid.errors import CorruptDataError
from nightbid.sampling.stage import run
from nightbid.storage.verify import inventory
from tasks import task_of

pytestmark = pytest.mark.slow

FIRST = date(2026, 1, 1)
ROWS = 400


def rows_of(day: date) -> dict[str, list]:
    """Make a day like real logs: repeated keys, missing users or times, unreadable labels."""
    draw = np.random.default_rng(day.toordinal())
    click = draw.random(ROWS) < 0.3
    like = click & (draw.random(ROWS) < 0.5)
    return {
        "impression_id": [f"{day}-{at if at % 50 else at - at % 200}" for at in range(ROWS)],
        "time": [
            f"{day}T00:{at // 60:02d}:{at % 60:02d}Z" if at != 7 else "?" for at in range(ROWS)
        ],
        "user_id": [f"u{at % 17}" if at != 11 else "" for at in range(ROWS)],
        "ad_id": [at % 7 for at in range(ROWS)],
        "device": [None if at % 9 == 0 else "phone" for at in range(ROWS)],
        "click": ["maybe" if at == 13 else str(int(c)) for at, c in enumerate(click)],
        "like": ["" if at == 17 else str(int(one)) for at, one in enumerate(like)],
    }


def write(folder: Path, kind: str, day: date) -> None:
    columns = rows_of(day)
    at = folder / f"dt={day}"
    at.mkdir(parents=True)
    lines = list(zip(*columns.values(), strict=True))
    if kind == "parquet":
        pq.write_table(pa.table(columns), at / "part.parquet")
    elif kind == "jsonl":
        text = "".join(json.dumps(dict(zip(columns, line, strict=True))) + "\n" for line in lines)
        (at / "part.jsonl").write_text(text)
    else:
        text = "\n".join(",".join("" if v is None else str(v) for v in line) for line in lines)
        header = ",".join(columns)
        (at / "part.csv.gz").write_bytes(gzip.compress(f"{header}\n{text}\na,b\n".encode()))


@pytest.fixture
def sample(tmp_path: Path):
    """Sample a pipeline's night; return the stage's outcome and the digest of every file."""
    count = iter(range(100))

    def start(kind: str, label: dict, workspace: str = "w", **blocks):
        logs = tmp_path / kind
        for at in range(4):
            if not (logs / f"dt={FIRST + timedelta(days=at)}").exists():
                write(logs, kind, FIRST + timedelta(days=at))
        output = tmp_path / f"out{next(count)}"
        output.mkdir()
        spec = PipelineSpec.model_validate(
            {
                "pipeline": f"p_{label['column']}",
                "source": {"kind": kind, "folder": str(logs), "outcomes": ["click", "like"]},
                "label": label,
                "features": {"ad_id": {}, "device": {}},
                "window": {"train_days": 2},
                **blocks,
            }
        )
        task = task_of(
            spec,
            FIRST + timedelta(days=3),
            output,
            workspace=tmp_path / workspace,
            cache=tmp_path / "cache",
        )
        return run(task), {file.path: file.digest for file in inventory(output)}

    return start


LIKE = {"column": "like"}


@pytest.mark.parametrize(
    ("kind", "label", "blocks"),
    [
        ("csv", LIKE, {}),
        ("jsonl", LIKE, {}),
        ("csv", {"column": "like", "given": "click"}, {}),
        ("csv", {"column": "like", "given": "click", "entire_space": True}, {}),
        ("csv", LIKE, {"sampling": {"negative_rate": 0.5}}),
        ("jsonl", LIKE, {"columns": {"item": "device", "user": "ad_id"}}),
    ],
    ids=["label", "label of JSON", "given", "entire space", "negatives", "roles"],
)
def test_another_label_is_sampled_from_stored_rows(sample, kind, label, blocks):
    first, _ = sample(kind, {"column": "click"})
    assert not first.metrics["rows_of"]
    assert first.rows.repeated
    assert first.rows.quarantined
    outcome, files = sample(kind, label, **blocks)
    assert set(outcome.metrics["rows_of"].values()) == {"p_click"}
    assert len(outcome.metrics["rows_of"]) == 4
    assert "4 days, all new (from rows of p_click, not the logs), label rate 0." in outcome.summary
    fresh, same = sample(kind, label, "another", **blocks)
    assert not fresh.metrics["rows_of"]
    assert files == same, "the bytes of a workspace without the other pipeline"
    known = ("days", "quarantine", "quarantine_examples", "label_rate")
    assert {name: outcome.metrics[name] for name in known} == {
        name: fresh.metrics[name] for name in known
    }
    assert outcome.rows == fresh.rows


def test_days_made_from_stored_rows_can_be_reused(sample, tmp_path):
    sample("csv", {"column": "click"})
    sample("csv", LIKE)
    for path in (tmp_path / "w/days/sample").glob("*/*/manifest.json"):
        if json.loads(path.read_text())["pipeline"] == "p_click":
            path.unlink()
    outcome, files = sample("csv", {"column": "click"})
    assert set(outcome.metrics["rows_of"].values()) == {"p_like"}
    assert files == sample("csv", {"column": "click"}, "another")[1]


def test_stored_rows_of_clicks_only_are_not_reused(sample):
    """A condition that drops nine of ten rows makes the stage read the logs again."""
    sample("csv", {"column": "like", "given": "click"})
    assert not sample("csv", LIKE)[0].metrics["rows_of"]


def test_stored_units_are_reused_unless_they_share_a_key(sample, monkeypatch):
    monkeypatch.setattr(units, "UNIT_BYTES", 15_000)
    sample("jsonl", {"column": "click"})
    outcome, files = sample("jsonl", LIKE)
    # Rows that repeat a key of an earlier unit are not stored.
    assert not outcome.metrics["rows_of"]
    assert files == sample("jsonl", LIKE, "another")[1]
    assert "split=train/dt=2026-01-01/part-00003.parquet" in files
    apart = {"columns": {"key": "time"}}
    sample("jsonl", {"column": "click"}, "third", **apart)
    outcome, files = sample("jsonl", LIKE, "third", **apart)
    assert len(outcome.metrics["rows_of"]) == 4
    assert files == sample("jsonl", LIKE, "fourth", **apart)[1]


def test_changed_logs_are_read_again(sample, tmp_path):
    sample("csv", {"column": "click"})
    path = tmp_path / "csv" / f"dt={FIRST}" / "part.csv.gz"
    path.write_bytes(
        gzip.compress(b"\n".join(gzip.decompress(path.read_bytes()).split(b"\n")[:-9]))
    )
    outcome, _ = sample("csv", LIKE)
    assert str(FIRST) not in outcome.metrics["rows_of"]
    assert len(outcome.metrics["rows_of"]) == 3
    assert "4 days, all new (3 from rows of p_click, not the logs)" in outcome.summary


def test_damaged_stored_rows_are_not_reused(sample, tmp_path):
    sample("csv", {"column": "click"})
    path = next((tmp_path / "w/days/sample" / str(FIRST)).glob("*/rows.parquet"))
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-1] + b"X")
    outcome, files = sample("csv", LIKE)
    assert str(FIRST) not in outcome.metrics["rows_of"]
    assert files == sample("csv", LIKE, "another")[1]


def test_a_label_that_is_not_binary_is_rejected_on_stored_rows(sample):
    sample("csv", {"column": "click"})
    with pytest.raises(CorruptDataError, match="device"):
        sample("csv", {"column": "device"}, features={"ad_id": {}})


def test_local_parquet_is_read_directly(sample, tmp_path):
    """Local Parquet reads as fast as stored rows, so no rows are stored for other pipelines."""
    sample("parquet", {"column": "click"})
    assert not sample("parquet", LIKE)[0].metrics["rows_of"]
    assert not list((tmp_path / "w").rglob("as_read.json"))
