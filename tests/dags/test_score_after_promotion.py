"""A promotion in a running Airflow starts the scoring DAG, with the champion in its asset event."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.dataset as ds
import pytest
from emulator.installation import until
from nightbid.config.settings import Settings
from nightbid.night.champion import ChampionPointer
from nightbid.storage.workspace import Workspace

NIGHTLY, SCORE, TIMED, RUN = "nightly_small", "score_small", "nightly_timed", "first"


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_promotion_starts_the_scoring_dag_and_a_schedule_its_night(
    pipelines: Callable[..., Path], tmp_path: Path
) -> None:
    from nightbid_airflow.embedded.client import ENDED
    from nightbid_airflow.embedded.home import Home
    from nightbid_airflow.embedded.services import embedded

    # The baseline's own architecture: neutral on any number of rows, and neutral is promoted.
    pipelines(model={"architecture": "logistic_regression"})
    # The night ends at its first stage because there are no logs.
    none = {"kind": "parquet", "folder": str(tmp_path / "none")}
    pipelines("timed", schedule="0 0 * * *", source=none)
    # Without schedules, Airflow creates no runs on its own, not even those of assets.
    with embedded(Home(tmp_path / "airflow"), Settings(), schedules=True) as airflow:
        client = airflow.client

        def scored() -> list[dict[str, str]]:
            return (client._call("GET", f"dags/{SCORE}/dagRuns") or {})["dag_runs"]

        until(lambda: all(map(client.has_dag, (NIGHTLY, SCORE, TIMED))))
        client.unpause(TIMED)
        client.unpause(NIGHTLY)
        client.unpause(SCORE)
        client.trigger(NIGHTLY, RUN, {"date": "2026-01-04"})
        until(lambda: client.run_state(NIGHTLY, RUN) in ENDED, 900)
        assert client.run_state(NIGHTLY, RUN) == "success", client.tasks(NIGHTLY, RUN)
        until(lambda: any(run["state"] in ENDED for run in scored()), 300)
        (run,) = scored()
        (timed,) = (client._call("GET", f"dags/{TIMED}/dagRuns") or {})["dag_runs"]
        events = (client._call("GET", "assets/events") or {})["asset_events"]
        (event,) = (event for event in events if "champion" in event["uri"])
    yesterday = dt.datetime.now(dt.UTC).date() - dt.timedelta(days=1)
    assert (timed["run_type"], timed["state"]) == ("scheduled", "failed")
    assert f"Night of {yesterday}" in timed["note"]
    champion = ChampionPointer(Workspace(Settings().workspace), "small").current()
    assert champion is not None
    assert (run["state"], run["run_type"]) == ("success", "asset_triggered")
    assert event["name"] == "champion_small"
    assert event["extra"] == {
        "pipeline": "small",
        "number": champion.number,
        "bundle": champion.bundle_digest,
        "run_id": RUN,
        "night": "2026-01-04",
    }
    (manifest,) = (tmp_path / "workspace" / "stages" / "small" / "score").glob("*/manifest.json")
    rows = json.loads(manifest.read_text())["rows"]["written"]
    files = sorted((manifest.parent / "scores").rglob("*.parquet"))
    assert ds.dataset(files).count_rows() == rows > 0
