"""`data_check` in Airflow: a form takes a folder, and a page shows the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.exceptions import AirflowFailException, ParamValidationError
from nightbid.config.load import parse_pipeline
from nightbid.config.settings import Settings
from nightbid.data_check.saved import saved_checks
from nightbid.report.data_check_page import data_check_page
from nightbid.report.links import Links
from nightbid.storage.workspace import Workspace

DAGS = Path(__file__).resolve().parents[2] / "dags"


class Run:
    run_id = "manual__2026-01-09T03:00:00+00:00"
    triggering_user_name = "ann"


def the_dag():
    bag = DagBag(str(DAGS), bundle_path=DAGS, bundle_name="dags-folder")
    assert not bag.import_errors
    return bag.dags["data_check"]


def look(folder: Path | str, pipeline: str = "") -> dict:
    params = {"folder": str(folder), "pipeline": pipeline}
    return the_dag().get_task("look").execute({"params": params, "dag_run": Run()})


def write_logs(folder: Path) -> None:
    rows = np.arange(300)
    for day in range(5, 8):
        at = folder / f"dt=2026-01-{day:02d}"
        at.mkdir(parents=True)
        times = np.datetime64(f"2026-01-{day:02d}T00:00:00", "us") + rows * 10**8
        pq.write_table(
            pa.table(
                {
                    "impression_id": [f"{day}-{row}" for row in rows],
                    "time": pa.array(times),
                    "user_id": [f"person-{row % 40}" for row in rows],
                    "ad_id": rows % 7,
                    "country": np.array(["DE", "<b>FR</b>"])[rows % 2],
                    "click": (rows % 10 == 0).astype(int),
                }
            ),
            at / "a.parquet",
        )


def test_data_check_of_a_folder_saves_a_page_with_a_pipeline_yaml(
    pipelines, tmp_path: Path
) -> None:
    pipelines()
    write_logs(tmp_path / "logs")
    summary = look(tmp_path / "logs", "own_ads")
    assert summary["missing"] == []
    (check,) = saved_checks(Workspace(Settings().workspace))
    assert summary["page"].endswith(f"/data-checks/{check.name.replace('+', '%2B')}")
    assert (check.by, check.report["pipeline"]) == ("ann", "own_ads")
    spec = parse_pipeline(check.report["yaml"], "own_ads.yaml")
    assert (spec.pipeline, spec.label.column) == ("own_ads", "click")
    page = data_check_page(check, Links(), [])
    assert "nightbid run own_ads --date 2026-01-07 --until gate_raw" in page
    assert "country" in page
    assert "<b>FR" not in page, "values of logs are no markup"
    assert "person-1" not in page + check.model_dump_json(), "ids of people are not kept"


def test_data_check_of_a_missing_folder_fails_in_one_line(pipelines, tmp_path: Path) -> None:
    pipelines()
    with pytest.raises(AirflowFailException, match="no such folder") as caught:
        look(tmp_path / "nowhere")
    assert "\n" not in str(caught.value)
    assert saved_checks(Workspace(Settings().workspace)) == []


@pytest.mark.parametrize(("field", "value"), [("folder", ""), ("pipeline", "Own Ads")])
def test_form_rejects_an_empty_folder_or_an_invalid_pipeline_name(
    pipelines, field: str, value: str
) -> None:
    pipelines()
    params = the_dag().params
    with pytest.raises(ParamValidationError):
        params[field] = value
