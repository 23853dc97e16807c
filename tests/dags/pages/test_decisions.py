"""Changes from a page or by REST: permissions, refusals and records."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import httpx
from nightbid.night.champion import ChampionPointer
from nightbid.night.pauses import PromotionPauses
from nightbid.storage.workspace import Workspace

from .conftest import CLIENT


def test_page_rollback_requires_role_token_reason_and_confirmation(
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
    form = {"token": token, "reason": "CTR fell at nine", "confirm": "yes"}
    refused = [
        ann.post("act/small/rollback", data=form),
        eve.post("act/small/rollback", data={**form, "token": "0" * 64}),
        eve.post("act/small/rollback", json={"reason": "CTR fell at nine"}),
        httpx.post(f"{server}act/small/rollback", data=form, **CLIENT),
    ]
    assert [answer.status_code for answer in refused] == [403, 403, 403, 401]
    for wrong in ({"reason": "no"}, {"confirm": ""}, {"to": "x"}):
        assert eve.post("act/small/rollback", data={**form, **wrong}).status_code == 422
    current = pointer.current()
    assert current is not None
    assert current.run_id == "small-2"

    done = eve.post("act/small/rollback", data=form)
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
    dags = Path(__file__).resolve().parents[3] / "dags"
    sync_bag_to_db(
        DagBag(str(dags), bundle_path=dags, bundle_name="dags-folder"), "dags-folder", None
    )


def test_dag_run_with_an_invalid_field_is_refused_in_one_line(
    server: str, token: Callable[[str], str], pipelines
) -> None:
    into_the_database(pipelines)
    headers = {"Authorization": f"Bearer {token('eve')}"}
    address = server.replace("/nightbid/", "/api/v2/dags/nightly_small/dagRuns")
    for conf, message in (
        ({"overrides": ["trian.epochs=1"]},
         "param overrides: 'trian.epochs=1' names no key of the pipeline's YAML → did you mean"
         " 'train'?"),
        ({"overrides": ["train.epochs"]}, "'train.epochs' → write key=value"),
        ({"overrides": ["train.epochs = 2"]}, "→ write key=value without spaces before the sign"),
        ({"overrides": "train.epochs=2"}, "→ write a list of texts key=value"),
        ({"date": "08.01.2026"}, "'08.01.2026' is not a 'date' → write YYYY-MM-DD, such as"),
        ({"train_days": "5"}, "→ write a whole number, without quotation marks"),
        ({"architecture": "dcn_v3"}, "param architecture: no 'dcn_v3' → did you mean 'dcn_v2'?"),
        ({"train_days": 0}, "0 is less than the minimum of 1 → see the description of the field"),
    ):  # fmt: skip
        answer = httpx.post(
            address, json={"logical_date": None, "conf": conf}, headers=headers, **CLIENT
        )
        assert answer.status_code == 400
        assert message in answer.json()["detail"], answer.text
        assert "\n" not in answer.json()["detail"]


def test_rescore_button_starts_the_same_rows_dag_for_both_runs(
    eve: httpx.Client, pipelines
) -> None:
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy import select

    into_the_database(pipelines)
    (token, *_) = re.findall('name="token" value="([0-9a-f]+)"', eve.get("champion/small").text)
    form = {"token": token, "confirm": "yes", "run": "small-1", "other": "small-2"}
    gone = eve.post("act/small/rescore", data={**form, "other": "gone"})
    assert (gone.status_code, "no run &#39;gone&#39;" in gone.text) == (422, True)
    done = eve.post("act/small/rescore", data={**form, "runs": "small-1 small-2"})
    there = "/nightbid/compare/small?run=small-1&run=small-2&asked=yes"
    assert (done.status_code, done.headers["location"]) == (303, there)
    with create_session() as session:
        (run,) = session.scalars(select(DagRun).where(DagRun.dag_id == "same_rows")).all()
        assert run.conf == {"pipeline": "small", "runs": ["small-1", "small-2"]}
        assert run.triggering_user_name == "eve"


def test_rest_pause_resume_and_promote_check_permissions_and_gates(
    server: str, token: Callable[[str], str], workspace: Workspace
) -> None:
    def post(user: str, action: str, **given: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token(user)}"}
        address = f"{server}act/small/{action}"
        return httpx.post(address, json=given, headers=headers, **CLIENT)

    assert post("ann", "pause", reason="the holidays").status_code == 403
    assert post("eve", "pause", reason="the holidays").json()["by"] == "eve"
    pauses = PromotionPauses(workspace, "small")
    paused = pauses.current()
    assert paused is not None
    assert (paused.by, paused.reason) == ("eve", "the holidays")
    assert post("eve", "resume").status_code == 200
    assert pauses.current() is None
    refused = post("eve", "promote", run="small-1", reason="it is better")
    assert refused.status_code == 422
    assert "gate_raw says" in refused.text
    assert post("eve", "nothing").status_code == 404
