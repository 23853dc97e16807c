"""Each published format runs a whole night with the defaults of its layout."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from nightbid.config.settings import Settings
from nightbid.data.obd import ARCHIVE
from nights import TREES

WINDOW = {"train_days": 2, "validate_days": 1, "evaluate_days": 1}
LENIENT = [
    {"gate": gate, "check": "*", "name": "tester", "reason": "so few rows", "until": "2099-01-01"}
    for gate in ("model", "serving")
]
BLOCKS = {"window": WINDOW, "columns": {}, "evaluate": {"bootstrap": 50}, "model": TREES,
          "baseline": TREES, "gates": {"overrides": LENIENT}}  # fmt: skip
AVAZU = (
    "id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,app_category,"
    "device_id,device_ip,device_model,device_type,device_conn_type,C14,C15,C16,C17,C18,C19,C20,C21"
)


def night(shell, date: str, source: dict, features: dict) -> str:
    shell.write("format", source=source, features=features, **BLOCKS)
    code, text = shell.run("run", "format", "--date", date)
    assert code == 0, text
    assert "gate_cost" in text  # every stage ran; so few rows prove no model better
    return text


def test_a_night_runs_on_criteo_logs(shell, tmp_path):
    draw = np.random.default_rng(0)
    logs = tmp_path / "logs"
    logs.mkdir()
    for day in range(4):
        label = draw.random(2000) < 0.25
        whole = draw.integers(0, 50, (2000, 13)) + 5 * label[:, None]
        words = draw.integers(0, 30, (2000, 26))
        (logs / f"day_{day}").write_text(
            "".join(
                "\t".join([str(int(label[at])), *map(str, whole[at]),
                           *(f"{word:08x}" for word in words[at])]) + "\n"
                for at in range(2000)
            )
        )  # fmt: skip
    source = {"kind": "csv", "folder": str(logs), "layout": "criteo", "first_day": "2026-01-01"}
    night(shell, "2026-01-04", source, {"C1": "vocabulary", "I1": {"transform": "numeric"}})


def test_a_night_runs_on_avazu_logs(shell, tmp_path):
    draw = np.random.default_rng(0)
    lines = [AVAZU]
    for at in range(8000):
        day, hour = 21 + at // 2000, (at % 2000) * 24 // 2000
        click = int(draw.random() < 0.2)
        lines.append(
            f"{10**18 + at},{click},1410{day}{hour:02d},1005,{draw.integers(2)},s{draw.integers(9)}"
            f",d,c,a,b,e,a99f214a,ip{draw.integers(400)},m{draw.integers(9)},1,2,"
            f"{15700 + draw.integers(20)},320,50,1722,0,35,-1,79"
        )
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "train.csv").write_text("\n".join(lines) + "\n")
    source = {"kind": "csv", "folder": str(logs), "layout": "avazu"}
    night(shell, "2014-10-24", source, {"C14": "vocabulary", "site_id": "vocabulary"})


def test_a_night_runs_on_open_bandit_logs(shell):
    cached = [Settings().cache / "obd" / ARCHIVE]
    archive = next((path for path in cached if path.exists()), None)
    if archive is None:
        pytest.skip("the Open Bandit archive is not in the cache: `nightbid data fetch`")
    cache = shell.workspace.parent / "cache" / "obd"
    cache.mkdir(parents=True)
    shutil.copy(archive, cache)
    night(shell, "2019-11-28", {"kind": "obd"}, {"item_id": "vocabulary"})
    manifest = next(shell.workspace.glob("stages/format/sample/*/manifest.json"))
    rows = json.loads(manifest.read_text())["rows"]
    assert rows["written"] > 4000
    assert rows["quarantined"] == 0
