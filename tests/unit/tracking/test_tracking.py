"""Runs are logged once to a real MLflow store, queued while it is down, and replayed later."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from nightbid.addresses import hide, shown
from nightbid.cli.track import track_runs
from nightbid.config.settings import Settings
from nightbid.errors import ConfigError, WorkspaceError
from nightbid.report.write import write_report
from nightbid.tracking.log import log_run, replay, tracking_uri
from nightbid.tracking.logged import Logged
from nightbid.tracking.payload import Payload, safe_name
from nightbid.tracking.queue import Queue

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
pytestmark = pytest.mark.usefixtures("preloaded_python")


@pytest.fixture
def settings(tmp_path, mlflow_database) -> Settings:
    """Return the default settings; their database exists already."""
    defaults = Settings(workspace=str(tmp_path / "workspace"))
    target = tmp_path / "workspace" / "tracking" / "mlflow.db"
    target.parent.mkdir(parents=True)
    shutil.copy(mlflow_database, target)
    return defaults


@pytest.fixture
def logged(settings):
    """Return the active MLflow runs of an experiment."""
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{settings.workspace}/tracking/mlflow.db"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)

    def runs(experiment: str = "ctr"):
        logged_experiment = client.get_experiment_by_name(experiment)
        return client.search_runs([logged_experiment.experiment_id]) if logged_experiment else []

    runs.client = client
    return runs


@pytest.fixture
def closed_port_uri() -> Iterator[str]:
    """Return the address of a closed loopback port, which no other program gets meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def test_a_finished_night_is_logged_with_metrics_tags_and_artifacts(recorded_run, settings, logged):
    run = recorded_run(overrides=("train.epochs=2",))
    write_report(run)
    done = log_run(run, settings)
    assert done.state == "logged", done
    (logged_run,) = logged()
    assert logged_run.info.run_name == run.run_id
    assert logged_run.info.status == "FINISHED"
    noted = Logged.of(run.folder)
    assert noted is not None
    assert noted.page("http://mlflow/") == (
        f"http://mlflow/#/experiments/{logged_run.info.experiment_id}/runs/{logged_run.info.run_id}"
    )
    metrics, tags = logged_run.data.metrics, logged_run.data.tags
    assert metrics["candidate.auc"] == 0.7312
    assert metrics["difference.normalized_entropy.high"] == -0.0045
    assert metrics["candidate.auc.low"] == 0.7202
    assert metrics["slice.platform.ios.auc"] == 0.7312
    assert metrics["load_test.p99"] == 3.33
    assert metrics["cost.total_usd"] == pytest.approx(
        sum(v for k, v in metrics.items() if k.startswith("cost.") and k != "cost.total_usd")
    )
    losses = logged.client.get_metric_history(logged_run.info.run_id, "train.loss")
    assert [(point.step, point.value) for point in losses] == [(1, 0.4), (2, 0.2)]
    assert logged_run.data.params["features.platform.column"] == "platform"
    assert logged_run.data.params["budget.run_usd"] == "5"
    assert tags["nightbid.verdict"] == "better"
    assert tags["nightbid.evaluate_rows"] == "rows-1"
    assert tags["nightbid.gate.gate_raw"] == "warn"
    assert tags["nightbid.overrides"] == "train.epochs=2"
    assert tags["nightbid.bundle"] == run.stage("export").uri
    assert len(tags["nightbid.code_digest"]) == 32
    (data,) = logged_run.inputs.dataset_inputs
    sample = json.loads((run.workspace.at(run.stage("sample").uri) / "manifest.json").read_text())
    assert data.dataset.digest == sample["digest"]
    files = {artifact.path for artifact in logged.client.list_artifacts(logged_run.info.run_id)}
    assert files == {"report.html", "run.json", "evaluation.json", "slices.json"}
    assert logged_run.info.artifact_uri.startswith(
        f"file://{settings.workspace}/tracking/artifacts/ctr"
    )


def test_a_night_with_only_reused_outputs_is_not_logged_again(recorded_run, settings, logged):
    run = recorded_run()
    assert log_run(run, settings).state == "logged"
    (before,) = logged()
    for record in run.records():
        again = {"reused": True, "seconds": 0.0, "started": record.started + timedelta(days=1)}
        run.record(record.model_copy(update=again))
    assert log_run(run, settings).state == "idle"
    (now,) = logged()
    assert now.info.run_id == before.info.run_id
    assert now.data.metrics["seconds.train"] == 60
    run.record(run.stage("promote").model_copy(update={"summary": "promoted by hand"}))
    assert log_run(run, settings).state == "logged"


def test_runs_are_queued_while_mlflow_is_down_and_replayed(
    recorded_run, settings, logged, closed_port_uri
):
    run = recorded_run()
    down = settings.model_copy(update={"tracking": closed_port_uri})
    outcome = log_run(run, down)
    assert outcome.state == "queued"
    assert closed_port_uri.removeprefix("http://127.0.0.1:") in outcome.detail
    assert "nightbid track --replay" in str(outcome)
    assert [entry.run_id for entry in Queue(run.workspace).waiting()] == [run.run_id]
    assert replay(run.workspace, tracking_uri(settings, run.workspace)) == [run.run_id]
    assert Queue(run.workspace).waiting() == []
    assert [entry.info.run_name for entry in logged()] == [run.run_id]
    assert replay(run.workspace, tracking_uri(settings, run.workspace)) == []


def test_replaying_a_run_twice_leaves_one_mlflow_run(recorded_run, settings, logged):
    run = recorded_run(until="train", error="out of memory")
    uri = tracking_uri(settings, run.workspace)
    Queue(run.workspace).put(Payload.of(run))
    replay(run.workspace, uri)
    (failed,) = logged()
    assert failed.info.status == "FAILED"
    assert failed.data.tags["nightbid.ended_by"] == "train: out of memory"
    Queue(run.workspace).put(
        Payload.of(run)
    )  # as if the process had died before it removed the entry
    replay(run.workspace, uri)
    assert [entry.info.run_id for entry in logged()] == [failed.info.run_id]
    Queue(run.workspace).put(Payload.of(recorded_run("other")).model_copy(
        update={"run_id": run.run_id}))  # fmt: skip
    replay(run.workspace, uri)
    (again,) = logged()
    assert again.info.run_id != failed.info.run_id
    assert again.info.status == "FINISHED"


def test_track_command_logs_queued_runs(recorded_run, settings, logged, closed_port_uri):
    run = recorded_run()
    with pytest.raises(WorkspaceError, match="stay queued"):
        track_runs(settings.model_copy(update={"tracking": closed_port_uri}), "ctr", run.run_id)
    assert track_runs(settings, "", "").startswith(f"logged {run.run_id} in sqlite")
    assert track_runs(settings, "", "").startswith("nothing is queued")
    assert len(logged()) == 1
    with pytest.raises(ConfigError, match="NIGHTBID_TRACKING"):
        track_runs(settings.model_copy(update={"tracking": ""}), "ctr", run.run_id)


def test_no_message_or_record_shows_the_password_of_the_store(
    recorded_run, settings, closed_port_uri, tmp_path
):
    address = closed_port_uri.replace("http://", "http://bob:s3cr%3At@") + "/mlflow?key=s3cr%3At"
    private = settings.model_copy(update={"tracking": address})
    run = recorded_run(overrides=("train.epochs=2",))
    done = log_run(run, private)
    assert done.state == "queued"
    assert f"{closed_port_uri}/mlflow: " in str(done)
    with pytest.raises(WorkspaceError) as caught:
        track_runs(private, "ctr", run.run_id)
    for text in (str(done), str(caught.value), hide(f"cannot log in at {address}", address)):
        assert "s3cr" not in text
        assert "bob" not in text
    # A record, to which pages link, has the address as it is shown.
    stored = f"sqlite:///{tmp_path}/workspace/tracking/mlflow.db"
    assert replay(run.workspace, f"{stored}?timeout=5") == [run.run_id]
    noted = Logged.of(run.folder)
    assert noted is not None
    assert noted.store == stored
    for plain in (stored, "postgresql://db/mlflow", "sqlite:///me@x.db", "databricks", ""):
        assert shown(plain) == plain
    for password in ("s3cr?t", "s3cr@t", "s3cr/t", "s3cr:t"):
        secret = f"mysql://bob:{password}@db:3306/mlflow"
        assert shown(f"{secret}?ssl=s3crt") == "mysql://db:3306/mlflow"
        assert "s3cr" not in hide(f"{secret} refuses {password}", secret)


def test_tracking_gives_up_on_a_hanging_store(recorded_run, settings):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        slow = settings.model_copy(update={"tracking": uri})
        outcome = log_run(recorded_run(), slow, patience=1.0)
    assert outcome.state == "queued"
    assert "did not answer" in outcome.detail


def test_a_broken_queue_never_fails_the_night(recorded_run, settings):
    run = recorded_run()
    folder = Path(settings.workspace) / "tracking" / "queue"
    folder.write_text("not a folder")
    assert log_run(run, settings).state == "lost"


def test_unfinished_runs_and_disabled_tracking_log_nothing(recorded_run, settings):
    off = settings.model_copy(update={"tracking": ""})
    run = recorded_run(until="evaluate")
    assert log_run(run, off).state == "off"
    assert log_run(run, settings).state == "unfinished"
    assert Queue(run.workspace).waiting() == []


def test_logging_an_older_state_keeps_the_newer_one_queued(recorded_run):
    older = Payload.of(recorded_run(until="train", error="x"))
    newer = older.model_copy(update={"failed": False})
    queue = Queue(recorded_run("other").workspace)
    queue.put(newer)
    queue.done(older)
    assert queue.waiting() == [newer]


def test_names_are_made_safe_for_mlflow():
    assert safe_name("../../etc") == "_.._etc"
    assert safe_name("<b>ü 1/2</b>") == "_b_ü 1_2__b_"
    assert safe_name("") == "_"
