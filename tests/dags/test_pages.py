"""The pages in a real API server of Airflow, over a socket: who may see what, and which names."""

from __future__ import annotations

import datetime as dt
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
import uvicorn
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from nightbid.config.pipeline import PipelineSpec
from nightbid.data_check.saved import SavedCheck
from nightbid.night.attempts import StageRecord
from nightbid.night.champion import ChampionPointer
from nightbid.night.manifest import FileEntry, Manifest, Rows
from nightbid.night.record import RunRecord
from nightbid.rehearse.bisect import Cause
from nightbid.rehearse.findings import Finding
from nightbid.rehearse.plan import RehearsalPlan
from nightbid.rehearse.report import Report, report_folder
from nightbid.report.assets import scripts
from nightbid.storage.workspace import Workspace
from nightbid.tracking.logged import Logged

GATE = "outputs/small/gate_raw/0123456789abcdef"
ADDRESSES = {
    "": "small-1",
    "nights/small": "small-1",
    "runs/small/small-1": "the disk is full",
    "runs/small/small-1/report.html": "the disk is full",
    "compare/small?run=small-1&run=small-2": "was not evaluated",
    "costs": "Nothing was spent yet",
    "rehearsals": "numpy 2.4.6 → 2.3.5",
    "rehearsals/small/try-numpy": "a figure differs",
    "data-checks": "/data/ad_logs",
    "data-checks/first": "features: {ad_id: vocabulary}",
    "champion/small": "nightbid rollback small",
    GATE: "what the gate saw",
    "checks/raw?pipeline=small": "nightbid gates override small",
}
"""Each page, and what is on it."""
REHEARSED = Report(
    plan=RehearsalPlan(
        name="try-numpy", pipeline="small", date=dt.date(2026, 1, 8), frozen="rows", seeds=2,
        first_seed=0, margin=0.002, present={"numpy": "==2.4.6"}, candidate={"numpy": "==2.3.5"},
    ),
    changes=("numpy 2.4.6 → 2.3.5",),
    verdict="not safe",
    findings=(Finding(kind="metrics", subject="log_loss", text="a figure differs", grave=True),),
    causes=(Cause(kind="metrics", packages=("numpy 2.4.6 → 2.3.5",), steps=1, finished=True),),
    compared=dict.fromkeys(
        ("features_equal", "features", "metrics", "training", "predictions", "models", "serving",
         "speed", "warnings", "records"), ()
    ),
    cost_usd=Decimal("0.01"),
    seconds=60,
    created=dt.datetime(2026, 1, 9, tzinfo=dt.UTC),
)  # fmt: skip
CHECK = SavedCheck(
    name="first", folder="/data/ad_logs", created=dt.datetime(2026, 1, 9, tzinfo=dt.UTC), by="ann",
    report={
        "pipeline": "ad_logs", "source": {"kind": "parquet", "folder": "/data/ad_logs"},
        "days": ["2026-01-07", "2026-01-08"], "gaps": [], "sampled": {"2026-01-08": 300},
        "unread": {}, "columns": [], "roles": {}, "missing": {"user": "an id of people"},
        "label": "click", "labels": [], "event_time": None, "outcomes": {}, "clocks": [],
        "repeated_keys": 0, "yaml": "features: {ad_id: vocabulary}",
    },
)  # fmt: skip


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Two runs that failed, an output of a gate, and a champion."""
    made = Workspace(str(tmp_path_factory.mktemp("pages") / "workspace"))
    spec = PipelineSpec.model_validate(
        {"pipeline": "small", "features": {"platform": {"column": "platform"}}}
    )
    night = dt.date(2026, 1, 8)
    for name in ("small-1", "small-2"):
        run = RunRecord.start(made, spec, night, run_id=name, trigger="airflow")
        started = dt.datetime(2026, 1, 9, tzinfo=dt.UTC)
        run.record(
            StageRecord(
                stage="sample", state="failed", error="the disk is full", seconds=1, started=started
            )
        )
    gate = made.at(GATE.replace("outputs", "stages"))
    gate.mkdir(parents=True)
    (gate / "index.html").write_text('<p>what the gate saw</p><a href="gate.json">')
    (gate / "gate.json").write_text('{"verdict": "stop"}')
    (gate / "model.bin").write_text("not for pages")
    rehearsed = report_folder(made, REHEARSED.plan)
    rehearsed.mkdir(parents=True)
    (rehearsed / "rehearsal.json").write_text(REHEARSED.model_dump_json())
    (made.root / "data_checks").mkdir()
    (made.root / "data_checks" / "first.json").write_text(CHECK.model_dump_json())
    (made.root / "secret.txt").write_text("not for everybody")
    ChampionPointer(made, "small").promote(
        run_id="small-1",
        night=night,
        bundle_uri="stages/x",
        bundle_digest="b" * 64,
        reason="better",
    )
    return made


@pytest.fixture(scope="module")
def server(
    workspace: Workspace, airflow_database: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Airflow's API server with the plugin, on a port of its own."""
    folder: Path = tmp_path_factory.mktemp("api")
    passwords = folder / "passwords.json"
    passwords.write_text(json.dumps({"ann": "secret", "eve": "secret"}))
    with pytest.MonkeyPatch.context() as patch, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        patch.setenv("NIGHTBID_WORKSPACE", str(workspace.root))
        patch.setenv("NIGHTBID_CACHE", str(folder / "cache"))
        patch.setenv("NIGHTBID_TRACKING_PAGES", "http://mlflow.example:5000/")
        patch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS", "ann:viewer,eve:user")
        patch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE", str(passwords))
        from airflow.api_fastapi.app import create_app, purge_cached_app
        from nightbid_airflow.views.app import pages

        pages.cache_clear()
        pages()  # Now, while the settings are those of this server.
        purge_cached_app()
        running = uvicorn.Server(uvicorn.Config(create_app("core"), log_level="warning"))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not running.started:
                time.sleep(0.05)
            yield f"{address}/nightbid/"
        finally:
            running.should_exit = True
            thread.join()
            pages.cache_clear()
            purge_cached_app()


@pytest.fixture(scope="module")
def ann(server: str) -> Iterator[httpx.Client]:
    """A user who is logged in and may only read."""
    with httpx.Client(base_url=server, trust_env=False, timeout=30) as client:
        client.cookies.set("_token", jwt(server, "ann"))
        yield client


@pytest.fixture(scope="module")
def eve(server: str) -> Iterator[httpx.Client]:
    """A user who is logged in and may edit DAGs."""
    with httpx.Client(base_url=server, trust_env=False, timeout=30) as client:
        client.cookies.set("_token", jwt(server, "eve"))
        yield client


def jwt(server: str, user: str) -> str:
    body = {"username": user, "password": "secret"}
    address = server.replace("/nightbid/", "/auth/token")
    answer = httpx.post(address, json=body, trust_env=False, timeout=30)
    return str(answer.json()["access_token"])


def test_nobody_sees_anything_without_a_login(server: str) -> None:
    for address, content in ADDRESSES.items():
        for headers in ({}, {"Authorization": "Bearer x.y.z"}, {"Cookie": "_token=x.y.z"}):
            answer = httpx.get(server + address, headers=headers, trust_env=False)
            assert answer.status_code in (401, 403), address
            assert content not in answer.text
    assert "/auth/login?next=" in httpx.get(server, trust_env=False).text


def test_somebody_who_may_read_no_dag_sees_no_run(server: str) -> None:
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

    token = get_auth_manager().generate_jwt(SimpleAuthManagerUser(username="bob", role=None))
    headers = {"Authorization": f"Bearer {token}"}
    for address in ADDRESSES:
        answer = httpx.get(server + address, headers=headers, trust_env=False)
        listing = address in ("", "costs", "rehearsals", "data-checks") or address.startswith(
            "checks"
        )
        assert answer.status_code == (200 if listing else 404), address
        assert "small-1" not in answer.text.replace("run &#39;small-1&#39;", "")


def test_the_scripts_of_the_charts_are_kept_by_browsers_until_they_change(server: str) -> None:
    for each in scripts():
        address = f"{server}assets/{each.name}"
        now = httpx.get(f"{address}?v={each.sha256.hex()[:16]}", trust_env=False)
        assert now.text == each.text
        assert "immutable" in now.headers["Cache-Control"]
        before = httpx.get(f"{address}?v=0123", trust_env=False)
        assert "immutable" not in before.headers["Cache-Control"]
    assert httpx.get(f"{server}assets/style.css", trust_env=False).status_code == 404


def test_every_page_opens_and_nothing_can_be_changed(ann: httpx.Client) -> None:
    for address, content in ADDRESSES.items():
        answer = ann.get(address)
        assert answer.status_code == 200, address
        assert content in answer.text, address
        assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            assert ann.request(method, address).status_code == 405, (method, address)


@pytest.mark.parametrize(
    "address",
    [
        "runs/small/..%2F..%2Fsecret.txt",
        "runs/..%2Fsmall/small-1",
        "runs/small/%2e%2e",
        "nights/%2e%2e",
        "champion/<script>",
        "compare/small?run=..%2Fsmall-1&run=small-2",
        "outputs/small/..%2F..%2F..%2Fsecret.txt/0123456789abcdef",
        "outputs/small/gate_raw/..%2F..%2F..%2F..%2Fsecret.txt",
        "outputs/small/gate_raw/fedcba9876543210",
        "outputs/small/sample/%00",
        "nowhere",
    ],
)
def test_names_from_outside_lead_nowhere_else(ann: httpx.Client, address: str) -> None:
    answer = ann.get(address)
    assert answer.status_code == 404
    assert "not for everybody" not in answer.text
    assert "<script>" not in answer.text


ROUTES = (
    "nights/{}", "runs/{}/{}", "runs/{}/{}/report.html", "compare/{}?run={}&run={}", "champion/{}",
    "outputs/{}/{}/{}", "outputs/{}/{}/{}/{}", "checks/{}?pipeline={}", "rehearsals/{}/{}",
    "sweeps/{}/{}", "airflow/{}", "airflow/{}/{}", "airflow/{}/{}/{}", "assets/{}?v={}",
    "?kind={}&state={}&q={}&page={}", "nights/small?page={}&q={}",
)  # fmt: skip
KNOWN = (
    "small",
    "small-1",
    "nightly_small",
    "sample",
    "gate_raw",
    "raw",
    "..",
    "\0",
    "-1",
    "night",
)


@settings(max_examples=120, deadline=None, derandomize=True, phases=[Phase.generate])
@given(
    route=st.sampled_from(ROUTES),
    values=st.lists(
        st.sampled_from(KNOWN) | st.text(st.characters(exclude_categories=["Cs"]), max_size=300),
        min_size=4, max_size=4,
    ),
)  # fmt: skip
def test_no_parameter_of_a_page_ends_in_an_error_of_the_server(
    eve: httpx.Client, route: str, values: list[str]
) -> None:
    address = route.format(*(quote(each, safe="") for each in values))
    answer = eve.get(address)
    assert answer.status_code < 500, (address, answer.text)


@pytest.mark.parametrize(
    ("address", "status", "words"),
    [
        ("runs/small/gone", 404, "Pipeline &#39;small&#39; has no run &#39;gone&#39;."),
        ("compare/small", 422, "Choose two to 24 runs"),
        ("compare/small?run=small-1", 422, "Choose two to 24 runs"),
        ("nights/small?page=many", 422, "page: "),
    ],
)
def test_what_does_not_work_is_said_with_a_way_on(
    ann: httpx.Client, address: str, status: int, words: str
) -> None:
    answer = ann.get(address)
    assert answer.status_code == status
    assert words in answer.text
    assert 'href="/nightbid/' in answer.text


def test_a_record_that_cannot_be_read_breaks_no_page(
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


def test_a_run_links_to_airflow_only_where_airflow_knows_it(ann: httpx.Client) -> None:
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


def test_the_tab_on_airflows_pages_leads_to_ours(ann: httpx.Client) -> None:
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
    for path, said in {
        "nightly_small/later": "No stage of this run has begun",
        "upgrade_rehearsal/x": "no night of a pipeline",
        "nightly_nobodys": "no run yet",
    }.items():
        answer = ann.get(f"airflow/{path}")
        assert answer.status_code == 200, path
        assert said in answer.text


def test_what_a_stage_wrote_is_a_page(ann: httpx.Client, workspace: Workspace) -> None:
    folder = workspace.stage_folder("small", "sample", "0123456789abcdef")
    folder.mkdir(parents=True)
    manifest = Manifest(
        pipeline="small", run_id="small-1", stage="sample", night="2026-01-08", key="k", digest="d",
        inputs={}, spec_digest="", code_digest="", versions={}, seed=0,
        rows=Rows(read=3000, written=2990, quarantined=10), metrics={"<i>": {"days": 3}},
        summary="2,990 rows", files=(FileEntry(path="rows.parquet", size=12345, digest="ab"),),
        created=dt.datetime(2026, 1, 9, tzinfo=dt.UTC),
    )  # fmt: skip
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    text = ann.get("outputs/small/sample/0123456789abcdef").text
    for said in ("2,990", "of 3,000 read, 10 quarantined", "&lt;i&gt;", "12,345", "rows.parquet"):
        assert said in text, said
    assert 'href="/nightbid/runs/small/small-1"' in text


def test_links_of_a_gates_page_lead_to_the_files_beside_it(ann: httpx.Client) -> None:
    page = ann.get(GATE)
    (link,) = re.findall('href="(.*)"', page.text)
    assert ann.get(str(page.url.join(link))).json() == {"verdict": "stop"}
    assert ann.get(f"{GATE}/model.bin").status_code == 404


def test_a_rollback_from_the_page_needs_the_role_the_token_and_a_reason(
    ann: httpx.Client, eve: httpx.Client, workspace: Workspace, server: str
) -> None:
    pointer = ChampionPointer(workspace, "small")
    first = pointer.current()
    assert first is not None
    pointer.promote(
        run_id="small-2", night=first.night, bundle_uri="stages/y", bundle_digest="c" * 64,
        reason="better",
    )  # fmt: skip
    assert "Roll back" not in ann.get("champion/small").text, "a viewer sees no button"
    page = eve.get("champion/small").text
    (token, *_) = re.findall('name="token" value="([0-9a-f]+)"', page)
    asked = {"token": token, "reason": "CTR fell at nine", "confirm": "yes"}
    refused = [
        ann.post("act/small/rollback", data=asked),
        eve.post("act/small/rollback", data={**asked, "token": "0" * 64}),
        eve.post("act/small/rollback", json={"reason": "CTR fell at nine"}),
        httpx.post(f"{server}act/small/rollback", data=asked, trust_env=False),
    ]
    assert [answer.status_code for answer in refused] == [403, 403, 403, 401]
    for wrong in ({"reason": "no"}, {"confirm": ""}, {"to": "x"}):
        assert eve.post("act/small/rollback", data={**asked, **wrong}).status_code == 422
    current = pointer.current()
    assert current is not None
    assert current.run_id == "small-2"

    done = eve.post("act/small/rollback", data=asked)
    assert (done.status_code, done.headers["location"]) == (303, "/nightbid/champion/small")
    entry = pointer.current()
    assert entry is not None
    assert (entry.run_id, entry.by, entry.reason) == ("small-1", "eve", "CTR fell at nine")
    shown = eve.get("champion/small").text
    assert "by eve" in shown


def into_the_database(pipelines) -> None:
    """Parse the DAGs of one pipeline, as the DAG processor does."""
    pipelines()
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db

    DagBundlesManager().sync_bundles_to_db()
    dags = Path(__file__).resolve().parents[2] / "dags"
    sync_bag_to_db(
        DagBag(str(dags), bundle_path=dags, bundle_name="dags-folder"), "dags-folder", None
    )


def test_a_wrong_field_of_a_run_is_refused_in_one_line(server: str, pipelines) -> None:
    into_the_database(pipelines)
    headers = {"Authorization": f"Bearer {jwt(server, 'eve')}"}
    address = server.replace("/nightbid/", "/api/v2/dags/nightly_small/dagRuns")
    for conf, said in (
        ({"overrides": ["trian.epochs=1"]},
         "param overrides: 'trian.epochs=1' names no key of the pipeline's YAML → did you mean"
         " 'train'?"),
        ({"overrides": ["train.epochs"]}, "'train.epochs' → write key=value"),
        ({"architecture": "dcn_v3"}, "param architecture: no 'dcn_v3' → did you mean 'dcn_v2'?"),
        ({"train_days": 0}, "0 is less than the minimum of 1 → see the description of the field"),
    ):  # fmt: skip
        answer = httpx.post(
            address, json={"logical_date": None, "conf": conf}, headers=headers, trust_env=False
        )
        assert answer.status_code == 400
        assert said in answer.json()["detail"], answer.text
        assert "\n" not in answer.json()["detail"]


def test_the_older_of_two_models_is_scored_on_newer_rows_at_a_button(
    eve: httpx.Client, pipelines
) -> None:
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy import select

    into_the_database(pipelines)
    (token, *_) = re.findall('name="token" value="([0-9a-f]+)"', eve.get("champion/small").text)
    asked = {"token": token, "confirm": "yes", "run": "small-1", "other": "small-2"}
    gone = eve.post("act/small/rescore", data={**asked, "other": "gone"})
    assert (gone.status_code, "no run &#39;gone&#39;" in gone.text) == (422, True)
    done = eve.post("act/small/rescore", data={**asked, "runs": "small-1 small-2"})
    there = "/nightbid/compare/small?run=small-1&run=small-2&asked=yes"
    assert (done.status_code, done.headers["location"]) == (303, there)
    with create_session() as session:
        (run,) = session.scalars(select(DagRun).where(DagRun.dag_id == "same_rows")).all()
        assert run.conf == {"pipeline": "small", "runs": ["small-1", "small-2"]}
        assert run.triggering_user_name == "eve"


def test_the_same_by_rest(server: str, workspace: Workspace) -> None:
    def post(user: str, action: str, **given: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {jwt(server, user)}"}
        address = f"{server}act/small/{action}"
        return httpx.post(address, json=given, headers=headers, trust_env=False, timeout=30)

    assert post("ann", "pause", reason="the holidays").status_code == 403
    assert post("eve", "pause", reason="the holidays").json()["by"] == "eve"
    paused = ChampionPointer(workspace, "small").paused()
    assert paused is not None
    assert (paused.by, paused.reason) == ("eve", "the holidays")
    assert post("eve", "resume").status_code == 200
    assert ChampionPointer(workspace, "small").paused() is None
    refused = post("eve", "promote", run="small-1", reason="it is better")
    assert refused.status_code == 422
    assert "gate_raw says" in refused.text
    assert post("eve", "nothing").status_code == 404
