"""A pipeline that `nightbid data check` drafts runs: its logs are sampled and judged."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from nights import TREES

ROWS = 20_000


def test_drafted_pipeline_passes_the_raw_gate_across_a_dst_change(shell, tmp_path):
    """On March 8, 2026, New York's clocks skip an hour, and the rows are correct."""
    for day in ("2026-03-07", "2026-03-08", "2026-03-09", "2026-03-10"):
        draw = np.random.default_rng(int(day[-2:]))
        start = pd.Timestamp(day, tz="America/New_York")
        seconds = (start + pd.DateOffset(days=1) - start).total_seconds()
        served = start.tz_convert("UTC") + pd.to_timedelta(
            np.sort(draw.integers(0, int(seconds), ROWS)), unit="s"
        )
        folder = tmp_path / "logs" / f"dt={day}"
        folder.mkdir(parents=True)
        table = pa.table(
            {
                "request_id": [f"{day}-{at}" for at in range(ROWS)],
                "served_at": pa.array(served.astype("datetime64[us, UTC]")),
                "user_id": draw.integers(0, 4000, ROWS),
                "ad_id": draw.integers(0, 50, ROWS),
                "[bold] page": draw.choice(["[/home] top", "[red]news"], ROWS),
                "click": draw.random(ROWS) < 0.1,
            }
        )
        pq.write_table(table, folder / "part.parquet")
    code, output = shell.run(
        "data", "check", str(tmp_path / "logs"), "--write", str(shell.pipelines / "ads.yaml")
    )
    assert code == 0, output
    assert "[bold] page" in output
    code, output = shell.run("run", "ads", "--date", "2026-03-10", "--until", "gate_raw")
    assert code == 0, output
    manifest = next(shell.workspace.glob("stages/ads/sample/*/manifest.json"))
    assert json.loads(manifest.read_text())["rows"]["written"] == 4 * ROWS
    code, output = shell.run("gates", "show", "ads", "ads-2026-03-10")
    assert code == 0, output
    assert "raw pass" in output


def test_values_that_look_like_markup_are_printed_literally(shell, tmp_path):
    """The progress, the terminal and the lists show a check that names such a value."""
    places = ["[/home] top", "[/sports] left", "[/news] top"]
    for at, day in enumerate(pd.date_range("2026-01-05", periods=4)):
        draw = np.random.default_rng(at)
        folder = tmp_path / "logs" / f"dt={day.date()}"
        folder.mkdir(parents=True)
        time = day + pd.to_timedelta(np.sort(draw.integers(0, 86_400, 2000)), unit="s")
        table = pa.table(
            {
                "impression_id": [f"{at}-{row}" for row in range(2000)],
                "time": pa.array(time.astype("datetime64[us]")),
                "user_id": draw.integers(0, 400, 2000),
                "ad_id": draw.integers(0, 50, 2000),
                "placement": draw.choice(places, 2000, p=[0.45, 0.35, 0.2] if at < 3 else
                                         [0.62, 0.28, 0.1]),
                "click": draw.random(2000) < 0.15,
            }
        )  # fmt: skip
        pq.write_table(table, folder / "part.parquet")
    shell.write(
        "ads",
        source={"kind": "parquet", "folder": str(tmp_path / "logs")},
        window={"train_days": 2},
        features={"placement": "vocabulary"},
        columns={},
        evaluate={},
    )
    code, output = shell.run("run", "ads", "--date", "2026-01-08", "--until", "gate_raw")
    assert code == 0, output
    assert "[/home] top" in output
    assert "Traceback" not in output
    for command in (("runs", "ads"), ("gates", "show", "ads", "ads-2026-01-08")):
        code, output = shell.run(*command)
        assert code == 0, output
    assert "[/home] top" in output


@pytest.mark.slow
def test_messy_json_logs_go_from_draft_to_promotion(shell, tmp_path):
    """JSON objects, country folders, times in several zones, labels Y and N, a broken line, an
    empty file and a day without clicks go from the draft to a promotion."""
    zones = ("UTC", "Europe/Berlin", "America/New_York")
    for at, day in enumerate(pd.date_range("2026-01-05", periods=4)):
        draw = np.random.default_rng(at)
        time = day.tz_localize("UTC") + pd.to_timedelta(
            np.sort(draw.integers(0, 86_400, 3000)), "s"
        )
        device = draw.choice(["phone", "desktop"], 3000)
        click = draw.random(3000) < (0 if at == 0 else np.where(device == "phone", 0.4, 0.1))
        lines = [
            json.dumps(
                {
                    "event": {
                        "id": f"{at}-{n}",
                        "ts": time[n].tz_convert(zones[n % 3]).isoformat(),
                    },
                    "user": {"id": float(draw.integers(1000, 1400))} if n % 10 > 2 else None,
                    "ad": {"id": int(draw.integers(0, 40))},
                    "Gerät": device[n],
                    "clicked": "NY"[int(click[n])],
                }
            )
            for n in range(3000)
        ]
        lines[100] = lines[100][:50]
        for country, rows in (("DE", lines[::2]), ("FR", lines[1::2])):
            folder = tmp_path / "events" / f"dt={day.date()}" / f"country={country}"
            folder.mkdir(parents=True)
            (folder / "part-0.jsonl").touch()
            (folder / "part-1.jsonl").write_text("\n".join([*rows, ""]))
    yaml_file = shell.pipelines / "events.yaml"
    code, output = shell.run("data", "check", str(tmp_path / "events"), "--write", str(yaml_file))
    assert code == 0, output
    assert "user     30.0% of the rows have no user (30.0% null, empty or zeros)" in output
    draft = yaml.safe_load(yaml_file.read_text())
    assert {role: draft["columns"][role] for role in ("key", "time", "user", "item")} == {
        "key": "event.id", "time": "event.ts", "user": "user.id", "item": "ad.id",
    }  # fmt: skip
    assert draft["label"] == {"column": "clicked", "texts": {"y": 1, "n": 0}}
    assert draft["features"]["country"] == "vocabulary"
    lenient = [
        {"gate": gate, "check": "*", "name": "tester", "reason": "so few rows",
         "until": "2099-01-01"} for gate in ("raw", "features", "model", "serving")
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
    yaml_file.write_text(yaml.safe_dump(draft))
    code, output = shell.run("run", "events", "--date", "2026-01-08")
    assert code == 0, output
    assert "promoted as champion #1" in output
    manifest = next(shell.workspace.glob("stages/events/sample/*/manifest.json"))
    manifest_data = json.loads(manifest.read_text())
    # On each day, one line is broken.
    assert manifest_data["rows"] == {
        "read": 12_000, "written": 11_996, "quarantined": 4, "repeated": 0, "dropped": 0,
    }  # fmt: skip
    assert manifest_data["metrics"]["quarantine"] == {"line is not a JSON object": 4}
    # Rows without a user are evaluated as users of their own.
    evaluated = json.loads(
        next(shell.workspace.glob("stages/events/evaluate/*/evaluation.json")).read_text()
    )
    scores = pq.read_table(next(shell.workspace.glob("stages/events/evaluate/*/scores")))
    assert len(scores["nb_user"].unique()) == evaluated["users"] + evaluated["anonymous"]
    assert evaluated["users"] <= 400
    assert evaluated["anonymous"] == pytest.approx(0.3 * evaluated["rows"], abs=1)
    page = next(shell.workspace.glob("runs/events/*/report.html")).read_text()
    assert f"users and {evaluated['anonymous']} rows without a user" in page
    assert manifest_data["metrics"]["days"]["2026-01-05"]["positives"] == 0
