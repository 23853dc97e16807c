"""The contents and links of the pages of runs and outputs."""

from __future__ import annotations

import datetime as dt
import re

import httpx
from nightbid.night.manifest import FileEntry, Manifest, RowCounts
from nightbid.storage.workspace import Workspace
from nightbid.tracking.logged import Logged

from .conftest import GATE


def test_unreadable_run_record_is_listed_and_its_page_returns_404(
    ann: httpx.Client, workspace: Workspace
) -> None:
    folder = workspace.root / "runs" / "torn" / "torn-1"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{")
    try:
        listed = ann.get("nights/torn")
        assert listed.status_code == 200
        assert "1 record cannot be read: torn/torn-1" in listed.text
        answer = ann.get("runs/torn/torn-1")
        assert answer.status_code == 404
        assert "has no run" in answer.text
    finally:
        (folder / "run.json").unlink()


def test_run_page_links_to_airflow_only_when_airflow_has_the_run(ann: httpx.Client) -> None:
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from airflow.utils.types import DagRunType

    assert "/dags/nightly_small" not in ann.get("runs/small/small-1").text
    with create_session() as session:
        run = DagRun(dag_id="nightly_small", run_id="small:1", run_type=DagRunType.MANUAL)
        run.run_after = dt.datetime.now(dt.UTC)
        session.add(run)
    try:
        text = ann.get("runs/small/small-1").text
        assert 'href="/dags/nightly_small/runs/small%3A1"' in text
        assert 'href="/dags/nightly_small/runs/small%3A1/tasks/sample"' in text
    finally:
        with create_session() as session:
            session.query(DagRun).filter(DagRun.run_id == "small:1").delete()


def test_a_run_links_to_its_own_page_in_mlflow(ann: httpx.Client, workspace: Workspace) -> None:
    assert 'href="http://mlflow.example:5000/"' in ann.get("runs/small/small-2").text
    Logged(store="http://m", experiment_id="7", run_id="ab12").save(workspace, "small", "small-1")
    text = ann.get("runs/small/small-1").text
    assert 'href="http://mlflow.example:5000/#/experiments/7/runs/ab12"' in text


def test_nightbid_tab_of_an_airflow_page_redirects_to_the_matching_page(ann: httpx.Client) -> None:
    for path, there in {
        "nightly_small": "/nightbid/nights/small",
        "nightly_small/small-1": "/nightbid/runs/small/small-1",
        "nightly_small/small-1/sample": "/nightbid/runs/small/small-1",
        "score_small": "/nightbid/champion/small",
        "sweep": "/nightbid/?kind=sweep",
        "data_check": "/nightbid/data-checks",
        "data_check/first": "/nightbid/data-checks/first",
    }.items():
        answer = ann.get(f"airflow/{path}")
        assert (answer.status_code, answer.headers.get("location")) == (307, there), path
    for path, excerpt in {
        "nightly_small/later": "No stage of this run has started",
        "upgrade_rehearsal/x": "not the nightly DAG of a pipeline",
        "nightly_nobodys": "no run yet",
    }.items():
        answer = ann.get(f"airflow/{path}")
        assert answer.status_code == 200, path
        assert excerpt in answer.text


def test_output_page_shows_the_manifest_of_a_stage(ann: httpx.Client, workspace: Workspace) -> None:
    folder = workspace.stage_folder("small", "sample", "0123456789abcdef")
    folder.mkdir(parents=True)
    manifest = Manifest(
        pipeline="small", run_id="small-1", stage="sample", night="2026-01-08", key="k", digest="d",
        inputs={}, spec_digest="", code_digest="", versions={}, seed=0,
        rows=RowCounts(read=3000, written=2990, quarantined=10), metrics={"<i>": {"days": 3}},
        summary="2,990 rows", files=(FileEntry(path="rows.parquet", size=12345, digest="ab"),),
        created=dt.datetime(2026, 1, 9, tzinfo=dt.UTC),
    )  # fmt: skip
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    text = ann.get("outputs/small/sample/0123456789abcdef").text
    for excerpt in (
        "2,990",
        "of 3,000 read, 10 quarantined",
        "&lt;i&gt;",
        "12,345",
        "rows.parquet",
    ):
        assert excerpt in text, excerpt
    assert 'href="/nightbid/runs/small/small-1"' in text


def test_gate_page_serves_its_linked_files_and_no_others(ann: httpx.Client) -> None:
    page = ann.get(GATE)
    (link,) = re.findall('href="(.*)"', page.text)
    assert ann.get(str(page.url.join(link))).json() == {"verdict": "stop"}
    assert ann.get(f"{GATE}/model.bin").status_code == 404
