"""The report of a run shows every figure, wherever the run ended, and leaks nothing."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from nightbid.report.loss_parts import loss_parts
from nightbid.report.run_view import RunView
from nightbid.report.table import night_table, verdict_line
from nightbid.report.write import write_report
from rich.console import Console

VOID = {"meta", "br"}


class Page(HTMLParser):
    """Text, addresses and tags of a page; raises an error if tags do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.addresses, self.tags, self._open = [], [], set(), []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.addresses += [v for k, v in attributes if k in ("href", "src", "action", "xlink:href")]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open[-1:] != ["script"]:
            self.text.append(data)

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))


@pytest.fixture
def page():
    def read(run) -> Page:
        return Page(write_report(run).read_text(encoding="utf-8"))

    return read


def test_the_report_of_a_finished_night_shows_its_metrics(recorded_run, page):
    report = page(recorded_run(overrides=("train.epochs=2",)))
    for figure in (
        "better than the baseline",
        "AUC 0.7312 (+0.0311 [+0.0215, +0.0407])",
        "[0.7202, 0.7422]",
        "0.8888",  # the baseline's normalized entropy
        "has 73.3% of what a model can gain over the constant prediction (baseline 60.0%)",
        "0.00300",  # hidden tastes
        "0.00800",  # left on the table
        "null_share:platform",
        "at least 1,000",
        "19,900",
        "77",
        "123,456",
        "1.71 / 2.22 / 3.33 ms",
        "432",
        "6.0e-08",
        "0 of 1,000",
        "dcn_v2",
        "5.0000 USD",
        "train.epochs=2",
        "numpy 2.4.1",
        "rows-1",
        "What promote says",
    ):
        assert figure in report.words, figure


def test_the_cost_chart_ends_with_the_reported_night(recorded_run, page):
    first, second, third = (recorded_run(f"night-{at}") for at in range(3))
    assert "Night by night" not in page(first).words
    assert "The newest 2 nights that trained a model" in page(second).words
    assert "The newest 3 nights that trained a model" in page(third).words


@pytest.mark.parametrize("until", ["sample", "train", "evaluate", "export"])
def test_the_report_of_a_failed_night_shows_the_error(recorded_run, page, until):
    run = recorded_run(until=until, error=f"dt=2026-01-20: no rows in {until} → fetch the day")
    report = page(run)
    assert f"failed at {until}" in report.words
    assert f"dt=2026-01-20: no rows in {until} → fetch the day" in report.words
    # The run has ended, so no stage is waiting.
    assert "not run" in report.words
    assert "waiting" not in [part.strip() for part in report.text]


def test_the_report_names_the_stopping_gate_and_its_value(recorded_run, page):
    checks = {"checks": [{"name": "p99_ms", "verdict": "stop", "observed": "180.5",
                          "expected": "at most 100", "detail": "ms"}]}  # fmt: skip
    report = page(recorded_run(metrics={"gate_serving": checks}))
    assert "stopped by gate_serving" in report.words
    assert "180.5" in report.words
    assert "at most 100" in report.words


def test_the_report_of_a_run_that_just_started_is_unfinished(recorded_run, page):
    run = recorded_run(until="sample")
    assert "unfinished" in page(run).words
    for record in (run.folder / "stages").iterdir():
        record.unlink()
    assert "No stage has finished yet." in page(run).words


def test_the_report_is_written_when_metrics_are_missing(recorded_run, page):
    lacking = {"architecture": "lightgbm", "history": []}
    none = {"value": None, "low": None, "high": None}
    evaluation = {"verdict": "worse", "reference": "baseline", "rows": 3, "positives": 0,
                  "candidate": {"auc": None}, "baseline": {"auc": None}, "constant": {},
                  "difference": dict.fromkeys(("auc", "normalized_entropy", "log_loss"), none),
                  "slices": [], "oracle": None, "intervals": {}}  # fmt: skip
    report = page(
        recorded_run(
            metrics={"train": lacking, "evaluate": evaluation, "load_test": {"curve": []},
                     "export": {"bytes": 1}, "train_baseline": {}}
        )
    )  # fmt: skip
    assert "worse than the baseline" in report.words
    assert "lightgbm" in report.words


def test_the_report_shows_metrics_of_each_task(recorded_run, page):
    plain = recorded_run(run_id="plain")
    figures = RunView(plain).evaluation
    assert "Tasks of the candidate" not in page(plain).words
    task = {**figures["candidate"], "rows": 5450, "positives": 1106, "auc": 0.5859}
    run = recorded_run(run_id="both", metrics={"evaluate": {**figures, "tasks": {"sale": task}}})
    assert "sale 5,450 1,106 0.5859" in page(run).words


def test_names_from_the_logs_are_escaped_in_the_report(recorded_run, page):
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
    metrics = {"gate_raw": {"checks": [{"name": evil, "verdict": "warn", "observed": evil,
                                        "expected": evil, "detail": evil}]}}  # fmt: skip
    run = recorded_run(metrics=metrics)
    evaluated = run.stage("evaluate")
    path = run.workspace.at(evaluated.uri) / "manifest.json"
    text = path.read_text().replace('"ios"', '"<script>alert(3)</script>"')
    path.write_text(text.replace('"platform"', '"<img src=http://evil>"'))
    report = page(run)
    assert not report.tags & {"img", "iframe", "object", "link"}
    assert "<script>alert(1)</script>" in report.words
    assert "<script>alert(3)</script>" in report.words


def test_the_report_references_nothing_external(recorded_run):
    text = write_report(recorded_run()).read_text(encoding="utf-8")
    page = Page(text)
    assert not [address for address in page.addresses if not (address or "").startswith("#")]
    style = re.search(r"<style>(.*?)</style>", text, re.S)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    assert "://" not in re.sub(r"<(pre|script)\b.*?</\1>", "", text, flags=re.S)


def test_the_report_shows_the_score_of_each_new_day(recorded_run, page):
    score = {"day": "2026-01-18", "night": "2026-01-20", "through": "2026-01-17", "rows": 1234,
             "log_loss": 0.2, "normalized_entropy": 0.9712, "error": 0.004, "auc": 0.7011,
             "calibration": 1.02}  # fmt: skip
    learned = {"days": ["2026-01-17", "2026-01-18"], "fresh": ["2026-01-18"], "nights": 1,
               "full_night": "2026-01-19", "batch_size": 128, "curve": [score],
               "excess": 0.0}  # fmt: skip
    metrics = {"train": {"incremental": learned, "start": "learned 2026-01-18 alone"}}
    text = page(recorded_run(metrics=metrics)).words
    assert "Days learned" in text
    assert "Learned 2026-01-18 alone." in text
    assert "1,234" in text
    assert "0.9712" in text
    assert "Normalized entropy of each day before it was learned" in text
    assert "Days learned" not in page(recorded_run("other")).words


def test_a_new_report_replaces_the_old_one(recorded_run):
    run = recorded_run()
    assert write_report(run) == write_report(run)
    assert [path.name for path in run.folder.iterdir() if "report" in path.name] == ["report.html"]


def test_the_terminal_shows_the_stages_and_the_verdict(recorded_run):
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    run = recorded_run()
    console.print(night_table(run))
    console.print(verdict_line(run))
    text = console.export_text()
    assert "19,900" in text
    assert "better than the baseline" in text
    assert "AUC 0.7312 (+0.0311 [+0.0215, +0.0407])" in text


@pytest.mark.parametrize(("until", "shown"), [("2026-01-20", True), ("2026-01-19", False)])
def test_an_override_is_shown_until_its_last_night(recorded_run, page, until, shown):
    override = {"gate": "raw", "check": "psi:site_id", "name": "Ann Li",
                "reason": "sites renamed on purpose", "until": until}  # fmt: skip
    words = page(recorded_run(gates={"overrides": [override]})).words
    assert ("Ann Li: sites renamed on purpose" in words) == shown


def test_loss_gap_to_the_truth_is_explained_without_loss_parts():
    metrics = {"oracle": {"log_loss": 0.3001}, "candidate": {"log_loss": 0.3131},
               "constant": {"log_loss": 0.3351}}  # fmt: skip
    parts = loss_parts(metrics)
    assert parts["loss_parts"] == []
    assert parts["gap"].startswith(
        "Log loss is 0.01300 above the best possible, 0.30010: 62.9% of the way there"
    )
    assert "no model can reach 100%" in parts["gap"]
    assert loss_parts({**metrics, "oracle": None})["gap"] == ""
