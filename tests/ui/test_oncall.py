"""A person on call understands each of twelve incidents within three clicks in a browser.

The Airflow serves a workspace in which each incident has its own pipeline. Most incidents are
records like those of a night; the missing day is a run of the real scheduler and triggerer.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from bundles import put_bundle
from emulator.installation import until
from nightbid.config.load import find_pipeline
from nightbid.config.settings import Settings
from nightbid.config.sources import SimulatorSource
from nightbid.data.simulator.source import SimulatorLogs
from nightbid.data.write import write_day
from nightbid.night.attempts import APPROVE, StageRecord
from nightbid.night.champion import ChampionPointer
from nightbid.night.manifest import Manifest, RowCounts
from nightbid.night.record import RunRecord
from nightbid.storage.workspace import Workspace
from nightbid.sweep.study import Sweep
from nightbid.tracking.log import queue_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
NOW = dt.datetime.now(dt.UTC)
NIGHT = NOW.date() - dt.timedelta(days=1)
BEGUN = NOW - dt.timedelta(hours=2)
NAMES = (
    "missing_day", "drift", "leak", "over_budget", "crash", "tracking_down", "rejected",
    "bad_setting", "late_night", "bad_champion", "overridden", "compared",
)  # fmt: skip
LATE, WAITING = "nightly_missing_day", "nightly_waiting"
"""DAGs whose newest day has no marker. The deadline of LATE has passed, that of WAITING has not."""
BASE = {"features": {"device_type": "vocabulary"}, "window": {"train_days": 2}}


class Nights:
    """Writes the records of nights."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.workspace = Workspace(settings.workspace)

    def begin(self, name: str, *done: str, run_id: str = "") -> RunRecord:
        spec = find_pipeline(name, self.settings.pipelines)
        run = RunRecord.start(self.workspace, spec, NIGHT, run_id=run_id or f"{name}-night")
        head = run.head.model_copy(update={"started": BEGUN})
        (run.folder / "run.json").write_text(head.model_dump_json())
        run = RunRecord.load(self.workspace, name, run.run_id)
        for stage in done:
            self.end(run, stage, "done", f"{stage} is done")
        return run

    def end(self, run: RunRecord, stage: str, state: Any, said: str, **more: Any) -> None:
        at = BEGUN + dt.timedelta(minutes=len(run.records()))
        failed = {"error": said} if state == "failed" else {"summary": said}
        run.record(StageRecord(stage=stage, state=state, started=at, seconds=30, **failed, **more))

    def gate(self, run: RunRecord, gate: str, check: str, observed: str) -> None:
        """Write a gate that stops on one check, and its output."""
        key = hashlib.sha256(run.run_id.encode()).hexdigest()[:32]
        folder = self.workspace.stage_folder(run.head.pipeline, gate, key)
        folder.mkdir(parents=True)
        checks = [
            {"name": check, "verdict": "stop", "observed": observed, "expected": "less", "detail":
             "the newest day"},
            {"name": "rows", "verdict": "pass", "observed": "3,000", "expected": "≥ 1",
             "detail": ""},
        ]  # fmt: skip
        summary = f"{check} is {observed}, expected less ({NIGHT})"
        manifest = Manifest(
            pipeline=run.head.pipeline, run_id=run.run_id, stage=gate, night=str(NIGHT), key=key,
            digest=key, inputs={}, spec_digest="", code_digest="", versions={}, seed=0,
            rows=RowCounts(), metrics={"checks": checks}, verdict="stop", summary=summary, files=(),
            created=NOW,
        )  # fmt: skip
        (folder / "manifest.json").write_text(manifest.model_dump_json())
        self.end(run, gate, "stopped", summary, uri=self.workspace.uri(folder), verdict="stop")


def write_logs(folder: Path) -> None:
    """Write four days; the newest has no marker, and today's logs do not exist."""
    simulator = SimulatorLogs(
        SimulatorSource(start=dt.date(2020, 1, 1), rows_per_day=300, users=50, ads=20)
    )
    for back in range(4):
        day = NIGHT - dt.timedelta(days=back)
        write_day(simulator.batches(day), folder, day)
        if back:
            (folder / f"dt={day}" / "_SUCCESS").touch()


def write_pipeline_that_waits(settings: Settings, name: str, logs: Path, deadline: str) -> None:
    tree = {
        "pipeline": name, **BASE, "source": {"kind": "parquet", "folder": str(logs)},
        "arrival": {"marker": "_SUCCESS", "every_seconds": 1, "deadline": deadline},
    }  # fmt: skip
    (settings.pipelines / f"{name}.yaml").write_text(yaml.safe_dump(tree))


def prepare(settings: Settings, logs: Path) -> None:
    """Make every incident except the missing day, which Airflow makes."""
    for name in NAMES:
        tree: dict[str, Any] = {"pipeline": name, **BASE}
        if name == "rejected":
            tree["approval"] = True
        (settings.pipelines / f"{name}.yaml").write_text(yaml.safe_dump(tree))
    write_pipeline_that_waits(settings, "missing_day", logs, "00:00")
    write_pipeline_that_waits(settings, "waiting", logs, "23:59")
    (settings.pipelines / "typo.yaml").write_text("pipeline: typo\nshcedule: '0 3 * * *'\n")
    nights = Nights(settings)
    for name in NAMES:
        pointer = ChampionPointer(nights.workspace, name)
        for number in (1, 2):
            put_bundle(nights.workspace, f"stages/{number}", str(number) * 64, name)
            pointer.promote(
                run_id=f"earlier-{number}", night=NIGHT - dt.timedelta(days=3 - number),
                bundle_uri=f"stages/{number}", bundle_digest=str(number) * 64, reason="better",
            )  # fmt: skip
    for name, gate, check, observed in (
        ("drift", "gate_raw", "psi:device_type", "0.41"),
        ("leak", "gate_raw", "known_if_positive:device_type", "0.97"),
        ("overridden", "gate_raw", "psi:device_type", "0.31"),
    ):
        nights.gate(nights.begin(name, "sample"), gate, check, observed)
    run = nights.begin("over_budget", "sample", "gate_raw", "featurize", "gate_features")
    over = (
        f"budget: run {run.run_id} has cost 5.0012 USD, over its limit of 5 USD: canceled"
        " → raise the limit in the pipeline's budget block, or make the stage cheaper"
    )
    nights.end(run, "train", "failed", over)
    run = nights.begin("crash", "sample", "gate_raw", "featurize", "gate_features")
    nights.end(run, "train", "failed", "train: the task was stopped from outside → clear the task"
        " to run it"
               " again")  # fmt: skip
    run = nights.begin("tracking_down", "sample", "gate_raw")
    nights.end(run, "featurize", "failed", "featurize: no space left on device")
    # MLflow does not respond, so the run waits.
    queue_run(run, settings.model_copy(update={"tracking": "http://127.0.0.1:9"}))
    gates = ("gate_raw", "gate_features", "gate_model", "gate_serving", "gate_cost")
    run = nights.begin("rejected", "sample", *gates)
    nights.end(run, APPROVE, "stopped", "not promoted: rejected by ann", by="ann")
    RunRecord.refused(
        nights.workspace, "bad_setting", NIGHT,
        "bad_setting.yaml: model.architecture: no architecture called 'dcn_v3', did you mean"
        " 'dcn_v2'? → correct the YAML, --set or the form; nothing has been run",
        run_id="bad_setting-night",
    )  # fmt: skip
    for number in range(4):
        name = f"backfill__2026-01-0{number + 1}__a1b2c3"
        run = nights.begin("compared", "sample", *gates, "promote", run_id=name)
    sweep = Sweep.start(
        "compared", settings, date=NIGHT, varied=["train.learning_rate=0.001,0.01"], trials=2,
        name="rates",
    )  # fmt: skip
    for number, loss in ((1, 0.31), (2, 0.29)):
        _, handle = sweep.propose(number)
        assert handle is not None
        sweep.end(handle, "done", {"log_loss": loss, "auc": 0.7})
    nights.begin("late_night", "sample")
    nights.begin("bad_champion", "sample", *gates, "promote")


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    write_logs(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def incidents(airflow: Any, settings: Settings, logs: Path, parse: Callable[[str], None]) -> None:
    """Add every incident to the workspace, let Airflow parse the pipelines, start two nights."""
    prepare(settings, logs)
    parse(WAITING)
    # The deadline of tonight's night is tomorrow, however long the tests take.
    for dag, night in ((LATE, NIGHT), (WAITING, NOW.date())):
        until(lambda dag=dag: airflow.client.has_dag(dag), 300)
        airflow.client.unpause(dag)
        airflow.client.trigger(dag, "late", {"date": str(night)})


def arrival(airflow: Any, dag: str) -> str | None:
    """Return the state of the task that waits for the missing day."""
    tasks = {task.name: task.state for task in airflow.client.tasks(dag, "late")}
    return tasks.get("arrival")


def end(airflow: Any, dag: str) -> None:
    """End a night whose rest is not needed."""
    airflow.client._call("PATCH", f"dags/{dag}/dagRuns/late", {"state": "failed"})


class Desk:
    """A logged-in browser that counts clicks from Airflow's home."""

    def __init__(self, page: Any, address: str) -> None:
        self.page, self.address, self.clicks = page, address, 0
        self.frame = page.frame_locator("iframe")

    def home(self) -> None:
        """Go from Airflow's home to the pages; only the first time loads Airflow's own scripts."""
        home = self.page.get_by_role("link", name="Home", exact=True)
        if home.count():
            home.first.click()
        else:
            self.page.goto(self.address)
        self.clicks = 0
        self.click(self.page.get_by_role("link", name="Nightbid"))

    def click(self, what: Any) -> None:
        what.click()
        self.clicks += 1
        assert self.clicks <= 3, "more than three clicks from Airflow's home"

    def open(self, pipeline: str, night: dt.date = NIGHT) -> None:
        """Go from Airflow's home to the last night of a pipeline in two clicks."""
        self.home()
        row = self.frame.locator("tr", has=self.frame.get_by_role("link", name=pipeline,
                                                                  exact=True)).first  # fmt: skip
        self.click(row.get_by_role("link", name=str(night)))
        self.frame.get_by_role("region", name="What now").wait_for()

    def text(self) -> str:
        return str(self.frame.locator("main").inner_text())


@pytest.fixture(scope="module")
def desk(tab: Any, airflow: Any) -> Iterator[Desk]:
    yield Desk(tab, airflow.client.address)
    tab.goto("about:blank")


SERVES = "In service: champion #2, run earlier-2"
SEEN = {
    "drift": ("stopped by gate_raw", "psi:device_type is 0.41", "nightbid data show drift",
              "nightbid gates override drift 'raw/psi:device_type'"),
    "leak": ("stopped by gate_raw", "known_if_positive:device_type is 0.97",
             "filled in after the event", "nightbid gates override leak"),
    "over_budget": ("failed at train", "over its limit of 5 USD", "--set budget.run_usd=AMOUNT",
                    "nightbid cost show over_budget"),
    "crash": ("failed at train", "the task was stopped from outside", "A rerun is safe",
              "nightbid run crash --date"),
    "tracking_down": ("MLflow did not accept this run", "nightbid track --replay"),
    "rejected": ("stopped by approve", "rejected by ann", "Promote it by hand"),
    "bad_setting": ("failed at request", "no architecture called 'dcn_v3'",
                    "Correct the setting"),
    "late_night": ("unfinished", "No stage is running", "nightbid run late_night --date"),
}  # fmt: skip
"""Pipeline → texts on its page about the incident and what to do."""


def test_run_page_shows_that_the_night_waits_for_a_missing_day(desk: Desk, airflow: Any) -> None:
    until(lambda: arrival(airflow, WAITING) == "deferred", 300)
    desk.open("waiting", NOW.date())
    # The page reloads itself.
    desk.frame.get_by_text(f"waits for the logs of {NOW.date()} until").first.wait_for()
    desk.page.goto("about:blank")
    end(airflow, WAITING)


@pytest.mark.parametrize("name", list(SEEN))
def test_an_incident_and_its_fix_are_shown_within_three_clicks(desk: Desk, name: str) -> None:
    desk.open(name)
    text = desk.text()
    for excerpt in (SERVES, "What to do", *SEEN[name]):
        assert excerpt in text, f"{excerpt!r} is not on the page of {name}:\n{text[:2000]}"


def test_home_lists_broken_yamls_and_stalled_nights_and_filters_runs(desk: Desk) -> None:
    desk.home()
    attention = desk.frame.get_by_role("alert", name="Attention")
    attention.wait_for()
    text = attention.inner_text()
    assert "typo: broken pipeline: typo.yaml: unknown key 'shcedule', did you mean" in text
    assert f"late_night {NIGHT}: stalled night: no progress for" in text
    assert "In service: champion #2" in text
    desk.frame.get_by_label("Search").fill("leak")
    desk.click(desk.frame.get_by_role("button", name="Filter"))
    desk.frame.get_by_text("Runs 1 to 1 of 1").wait_for()
    assert "crash-night" not in desk.text().partition("Runs 1 to 1")[2]


def confirm(desk: Desk, summary: str, reason: str) -> None:
    """Open a form, give a reason, tick the box and submit it."""
    form = desk.frame.locator("details.act", has_text=summary).first
    desk.click(form.locator("summary"))
    if reason:
        form.get_by_label("Why").fill(reason)
    form.get_by_label("I confirm").check()
    form.get_by_role("button", name=summary).click()


def test_a_bad_champion_is_rolled_back_from_its_page(desk: Desk) -> None:
    desk.home()
    row = desk.frame.locator("tr", has=desk.frame.get_by_role("link", name="bad_champion",
                                                              exact=True)).first  # fmt: skip
    desk.click(row.get_by_role("link", name="#2"))
    confirm(desk, "Roll back to the previous champion", "CTR fell at nine")
    desk.frame.get_by_text("CTR fell at nine").first.wait_for()
    text = desk.text()
    assert "earlier-1 has served since" in text
    assert "by admin" in text.lower()


def test_a_check_is_overridden_from_the_runs_page(desk: Desk) -> None:
    desk.open("overridden")
    confirm(desk, "Let psi:device_type pass", "a new app was launched")
    desk.frame.get_by_text("warns instead of stopping until").wait_for()


def test_the_winner_of_a_sweep_is_run_from_its_page(desk: Desk, airflow: Any) -> None:
    desk.home()
    page = desk.page
    page.goto(f"{desk.address}/plugin/nightbid/nightbid/sweeps/compared/rates")
    confirm(desk, "Run the winner as a night", "")
    desk.frame.get_by_text("No stage of this run has started").wait_for()
    conf = airflow.client.run_conf("nightly_compared", "rates-winner")
    assert conf["date"] == str(NIGHT)
    assert conf["overrides"][-1].startswith("train.learning_rate=")
    page.goto(f"{desk.address}/plugin/nightbid/nightbid/sweeps/compared/rates")
    confirm(desk, "Run the winner as a night", "")
    desk.frame.get_by_text("the winner has been run as rates-winner").wait_for()


def test_a_night_without_its_day_stops_and_reruns_from_its_page(
    desk: Desk, airflow: Any, logs: Path
) -> None:
    until(lambda: arrival(airflow, LATE) == "failed", 300)
    desk.open("missing_day")
    text = desk.text()
    for words in ("stopped by arrival", "not complete: no file _SUCCESS", SERVES,
                  f"nightbid data arrival missing_day --date {NIGHT}"):  # fmt: skip
        assert words in text, words
    (logs / f"dt={NIGHT}" / "_SUCCESS").touch()
    confirm(desk, "Rerun the failed tasks", "")
    until(lambda: arrival(airflow, LATE) == "success", 300)
    end(airflow, LATE)


@pytest.mark.parametrize("width", [390, 1400])
def test_pages_fit_phones_and_wide_screens(desk: Desk, width: int) -> None:
    page = desk.page
    runs = "&".join(f"run=backfill__2026-01-0{number + 1}__a1b2c3" for number in range(4))
    compared = f"compare/compared?{runs}"
    page.set_viewport_size({"width": width, "height": 900})
    try:
        for path in ("", "nights/drift", "runs/drift/drift-night", "champion/drift", "costs",
                     "checks/raw", "sweeps/compared/rates", compared):  # fmt: skip
            page.goto(f"{desk.address}/nightbid/{path}")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path
            if width > 1000:
                # No part of the page needs scrolling, not even four runs side by side.
                assert page.evaluate(
                    "[...document.querySelectorAll('.wide')]"
                    ".every(each => each.scrollWidth <= each.clientWidth)"
                ), path
    finally:
        page.set_viewport_size({"width": 1280, "height": 900})
