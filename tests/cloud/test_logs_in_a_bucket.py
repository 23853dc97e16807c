"""From text files in an S3 bucket to a champion in a Google bucket, by a user's commands."""

from __future__ import annotations

import gzip
import json
import logging
import os
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
import yaml
from moto.server import ThreadedMotoServer
from nightbid.night.champion import ChampionPointer
from nightbid.night.record import RunRecord
from nightbid.storage.workspace import Workspace, read_manifest
from nights import TREES
from preloaded import COMMANDS

pytestmark = pytest.mark.slow
FIRST = date(2026, 1, 5)
ROWS = 4000


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a client of an S3 service with the bucket `logs`."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    for name, value in {
        "AWS_ENDPOINT_URL": "http://{}:{}".format(*server.get_host_and_port()),
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="logs")
    yield client
    server.stop()


def put(s3: Any, at: int, name: str = "part-0", first: int = 0, rows: int = ROWS) -> None:
    """Write rows of a day; rows on phones have more clicks."""
    day = FIRST + timedelta(days=at)
    draw = np.random.default_rng([at, first])
    seconds = np.sort(draw.integers(0, 86_400, rows))
    device = draw.choice(["phone", "desktop", "tablet"], rows)
    click = draw.random(rows) < np.where(device == "phone", 0.4, 0.1)
    lines = ["request id;served at;uid;creative;device;price;is_click"]
    lines += [
        f"{at}-{first + n};{day} {s // 3600:02d}:{s // 60 % 60:02d}:{s % 60:02d};u{n * 7 % 900};"
        f"{n * 13 % 40};{device[n]};{1 + n % 50 / 10:.2f};{int(click[n])}".replace(".", ",")
        for n, s in enumerate(seconds)
    ]
    body = gzip.compress("\n".join(lines).encode())
    s3.put_object(Bucket="logs", Key=f"ads/{day:%Y/%m/%d}/{name}.csv.gz", Body=body)


def nightbid(folder: Path, *arguments: str) -> str:
    started = COMMANDS.start(
        *arguments,
        env={
            **os.environ,
            "NIGHTBID_PIPELINES": str(folder),
            "NIGHTBID_TRACKING": "",
            "COLUMNS": "200",
            "NO_COLOR": "1",
        },
    )
    output, _ = started.communicate()
    assert started.returncode == 0, output
    return output


def test_s3_logs_yield_a_champion_and_a_late_file_resamples_its_day(
    s3: Any, emulated: str, tmp_path: Path
) -> None:
    for at in range(5):
        put(s3, at)
    folder = tmp_path / "pipelines"
    folder.mkdir()
    output = nightbid(folder, "data", "check", "s3://logs/ads", "--write", str(folder / "ads.yaml"))
    assert "5, 2026-01-05 to 2026-01-09, none missing" in output
    draft = yaml.safe_load((folder / "ads.yaml").read_text())
    assert draft["source"] == {
        "kind": "csv", "folder": "s3://logs/ads", "delimiter": ";", "decimal": ",",
    }  # fmt: skip
    assert draft["columns"] | {"price": None} == {
        "key": "request id", "time": "served at", "user": "uid", "item": "creative", "price": None,
    }  # fmt: skip
    # So few rows say nothing about a model, and tests run on busy machines.
    lenient = [
        {"gate": gate, "check": "*", "name": "tests", "reason": "so few rows", "until":
         date(2099, 1, 1)} for gate in ("model", "serving")
    ]  # fmt: skip
    draft |= {
        "gates": {"overrides": lenient},
        "train": {"epochs": 1, "refit": False},
        "load_test": {"requests": 60},
        "window": {"train_days": 2},
        "model": TREES,
        "baseline": TREES,
    }
    draft["evaluate"] = {"bootstrap": 50, "margin_ne": 1, "margin_auc": 1}
    (folder / "ads.yaml").write_text(yaml.safe_dump(draft))

    output = nightbid(folder, "run", "ads", "--date", "2026-01-08")
    assert "promoted as champion #1" in output
    champion = ChampionPointer(Workspace(emulated), "ads").current()
    assert champion is not None
    put(s3, 3, "late", ROWS, 100)
    output = nightbid(folder, "run", "ads", "--date", "2026-01-09", "--until", "sample")
    assert "4 days, 2 reused, made 2026-01-08 (logs changed), 2026-01-09 (new)" in output
    record = RunRecord.load(Workspace(emulated), "ads", "ads-2026-01-09").stage("sample")
    assert record is not None
    manifest = read_manifest(Workspace(emulated).at(record.uri))
    assert manifest.rows.written == 4 * ROWS + 100
    # The cache holds each object once; the logs are never written to.
    copies = [path.name for path in (tmp_path / "cache/buckets").rglob("*.csv.gz")]
    assert sorted(copies) == ["late.csv.gz", *["part-0.csv.gz"] * 5]
    names = [entry["Key"] for entry in s3.list_objects_v2(Bucket="logs")["Contents"]]
    assert len(names) == 6
    assert json.loads(nightbid(folder, "data", "check", "s3://logs/ads", "--json"))["gaps"] == []
