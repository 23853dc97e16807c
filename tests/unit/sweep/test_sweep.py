"""Runs a short sweep with real stages: trials are ranked, pruned and resumed, and one fails."""

from __future__ import annotations

import datetime as dt
import io
import re
import shlex
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest
import yaml
from nightbid.cli.sweep import leaderboard
from nightbid.config.load import find_pipeline
from nightbid.config.settings import Settings
from nightbid.errors import BudgetExceeded, ConfigError
from nightbid.night.record import RunRecord, runs_of
from nightbid.night.stages import stage_named
from nightbid.runner import run_stage
from nightbid.storage.workspace import Workspace
from nightbid.sweep.study import Sweep
from nightbid.sweep.summary import winner_command, write_page
from nightbid.sweep.track import track_trials
from nightbid.sweep.trials import prepare, run_trial, spent
from nightbid.tracking.queue import Queue
from rich.console import Console

PIPELINE = {
    "pipeline": "small",
    "source": {"kind": "simulator", "rows_per_day": 3000, "users": 500, "ads": 200},
    "window": {"train_days": 2},
    "features": {"ad_id": {"min_count": 5}, "user_id": {"min_count": 5}, "site_id": "vocabulary"},
    "model": {"embedding_l2": 1},
    "train": {"epochs": 1, "batch_size": 256},
    "gates": {
        "overrides": [
            {"gate": gate, "check": "*", "name": "tests", "until": "2099-01-01",
             "reason": "so few rows prove nothing"} for gate in ("raw", "features")
        ]
    },
}  # fmt: skip
# With seed 1, the hopeless rate comes after enough trials are known to judge it.
VARIED = ("model.architecture=logistic_regression,nope", "train.lr=0.02,0.03,0.04,0.05,1e-9")
SEED = 1


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "pipelines").mkdir()
    (folder / "pipelines" / "small.yaml").write_text(yaml.safe_dump(PIPELINE))
    return Settings(
        workspace=str(folder / "workspace"),
        pipelines=folder / "pipelines",
        cache=folder / "cache",
        tracking="",
    )


def start(settings, *, trials=10, varied=VARIED, **options):
    return Sweep.start(
        "small", settings, date=dt.date(2026, 1, 5), varied=varied, trials=trials, seed=SEED,
        **options,
    )  # fmt: skip


def test_concurrent_trials_open_the_existing_study(settings):
    sweep = start(settings, name="together")
    loaded = [Sweep.load("small", "together", settings) for _ in range(8)]
    assert (sweep.folder / "study.db").stat().st_size > 0
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(Sweep.trials, loaded)) == [[]] * 8


def run_of(sweep, trial, settings):
    return RunRecord.load(Workspace(settings.workspace), "small", trial.run_id)


@pytest.fixture(scope="module")
def swept(settings):
    sweep = start(settings, trials=4)
    prepare(sweep, settings)
    for number in range(1, 5):
        run_trial(sweep, number, settings)
    first = {trial.number: trial for trial in sweep.trials()}
    again = start(settings, trials=99)
    # The process was killed during the fifth trial.
    killed, _ = again.propose(5)
    for number in range(1, again.head.trials + 1):
        run_trial(again, number, settings)
    return again, first, killed


def test_an_interrupted_sweep_resumes_and_tries_each_combination_once(swept, settings):
    sweep, first, killed = swept
    trials = sweep.trials()
    assert sweep.head.trials == 10, "there are no more than ten combinations"
    assert len({trial.overrides for trial in trials}) == 10
    for trial in trials[:4]:
        assert trial == first[trial.number]
        attempts = [r for r in run_of(sweep, trial, settings).records() if r.stage == "train"]
        assert len(attempts) == 1
    assert trials[4].values == killed.values
    assert trials[4].state == "done"


def test_a_failed_trial_reports_its_error_and_does_not_stop_others(swept):
    sweep, _, _ = swept
    failed = [trial for trial in sweep.trials() if trial.state == "failed"]
    assert len(failed) == 5
    for trial in failed:
        assert "no architecture called 'nope'" in trial.error
    assert len(sweep.ranked()) >= 4


def test_a_trial_that_does_not_learn_is_pruned(swept):
    sweep, _, _ = swept
    (pruned,) = [trial for trial in sweep.trials() if trial.state == "pruned"]
    assert pruned.overrides[-1] == "train.learning_rate=1e-9"
    assert "worse than the median" in pruned.error


def test_trials_share_sampled_rows_and_features(swept, settings):
    sweep, _, _ = swept
    for trial in sweep.trials():
        run = run_of(sweep, trial, settings)
        assert run.stage("featurize").reused
        assert run.stage("sample").reused
    assert not runs_of(Workspace(settings.workspace), "small"), "trials are no nights"


def test_the_winner_has_the_lowest_loss_and_its_command_reuses_training(swept, settings):
    sweep, _, _ = swept
    ranked = sweep.ranked()
    losses = [trial.log_loss for trial in ranked]
    assert losses == sorted(losses)
    words = shlex.split(winner_command(sweep, ranked[0]))
    assert words[:5] == ["nightbid", "run", "small", "--date", "2026-01-05"]
    overrides = tuple(words[at + 1] for at, word in enumerate(words) if word == "--set")
    spec = find_pipeline("small", settings.pipelines, overrides)
    run = RunRecord.start(Workspace(settings.workspace), spec, sweep.head.date, sweep="x")
    for name in ("sample", "featurize", "train"):
        stage = stage_named(name)
        result = run_stage(stage, spec, run, cache_folder=settings.cache)
        assert result.reused
    assert result.manifest.metrics["validation"]["log_loss"] == losses[0]


def test_the_sweep_page_shows_all_trials_and_loads_nothing_external(swept, settings):
    sweep, _, _ = swept
    page = write_page(sweep, settings).read_text()
    winner = sweep.ranked()[0]
    assert f"{winner.log_loss:.5f}" in page
    assert "--set train.learning_rate=" in page
    assert "no architecture called" in page
    assert page.count('class="chart ') == 2, "accuracy against cost, importance"
    assert "://" not in re.sub(r"<script\b.*?</script>", "", page, flags=re.S)
    assert sum(sweep.importances().values()) == pytest.approx(1)


def test_trials_are_queued_while_mlflow_is_down(swept, settings):
    sweep, _, _ = swept
    down = settings.model_copy(update={"tracking": "http://127.0.0.1:9"})
    message = track_trials(sweep, down)
    assert message.startswith("not tracked yet, queued")
    waiting = Queue(Workspace(settings.workspace)).waiting()
    assert len(waiting) == 10
    assert {run.experiment for run in waiting} == {f"small.sweep.{sweep.head.name}"}
    best = next(run for run in waiting if run.run_id == sweep.ranked()[0].run_id)
    assert best.parameters["train.learning_rate"] == sweep.ranked()[0].overrides[-1].split("=")[1]
    assert sum(run.failed for run in waiting) == 6, "failed and pruned ones"
    assert track_trials(sweep, settings) == "", "nothing is tracked here"


def test_a_spent_budget_stops_the_sweep_and_a_larger_one_resumes_it(settings, swept):
    used = spent(swept[0], settings)
    assert used > 0
    varied = ("model.architecture=logistic_regression", "train.lr=log:0.01..0.1")
    sweep = start(settings, varied=varied, name="poor", budget_usd=Decimal("0.0000001"))
    prepare(sweep, settings)
    run_trial(sweep, 1, settings)
    with pytest.raises(BudgetExceeded, match="larger --budget"):
        run_trial(sweep, 2, settings)
    richer = start(settings, varied=varied, name="poor", budget_usd=Decimal(1))
    assert run_trial(richer, 2, settings).state == "done"


def test_a_sweep_name_cannot_be_reused_with_other_settings(swept, settings):
    with pytest.raises(ConfigError, match=r"another settings.*--name"):
        start(settings, varied=("train.lr=0.1,0.2",), name=swept[0].head.name)
    with pytest.raises(ConfigError, match="there are: "):
        Sweep.load("small", "nowhere", settings)


def test_the_leaderboard_shows_every_value_on_a_narrow_terminal(swept):
    sweep, _, _ = swept
    console = Console(width=80, file=io.StringIO())
    console.print(leaderboard(sweep))
    shown = console.file.getvalue().splitlines()
    for trial in sweep.trials():
        values = [override.partition("=")[2] for override in trial.overrides]
        mark = trial.state if trial.state != "done" else str(sweep.ranked().index(trial) + 1)
        assert any(
            line.split()[:2] == [mark, str(trial.number)] and set(values) <= set(line.split())
            for line in shown
        ), trial


def test_sweeps_by_auc_are_rejected_for_value_labels(tmp_path):
    tree = {**PIPELINE, "label": {"kind": "value", "column": "conversion_delay_true"}}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(tree))
    other_settings = Settings(
        workspace=str(tmp_path / "ws"), pipelines=tmp_path, cache=tmp_path / "c"
    )
    with pytest.raises(ConfigError, match="there is no AUC of values"):
        Sweep.start(
            "small", other_settings, date=dt.date(2026, 1, 8), varied=VARIED, trials=2, metric="auc"
        )
