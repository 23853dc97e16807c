"""Tests the champion's scores over a socket, and how the scorer follows the champion."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import threading
import time

import httpx
import numpy as np
import pyarrow as pa
import pytest
from emulator.installation import until
from nightbid.features.fitted import FittedFeatures
from nightbid.models.predict import load_model
from nightbid.night.champion import ChampionPointer
from nightbid.serving.bundle import Bundle, read_columns
from nightbid.storage.workspace import Workspace

from .running import serving


def test_the_scorer_answers_503_until_the_first_champion(night, tmp_path):
    with serving(tmp_path, "--processes", "1") as scorer:
        assert "no champion serves yet" in scorer.process.stdout.readline()
        assert scorer.http.get("/health").json()["status"] == "waiting for a champion"
        for answer in (scorer.http.get("/ready"), scorer.score(night.raw().slice(0, 1))):
            assert answer.status_code == 503
            assert "no candidate has passed every gate yet" in answer.json()["error"]
        scorer.promote(night, "first")
        assert scorer.http.get("/ready").status_code == 200
        columns = scorer.http.get("/columns").json()["columns"]
        assert columns["ad_id"] == str(night.raw().schema.field("ad_id").type)
        assert "click" not in columns
        assert "position" not in columns
        # The process ends by itself after SIGTERM.
        scorer.process.send_signal(signal.SIGTERM)
        assert scorer.process.wait(120) in (0, -signal.SIGTERM)


def test_the_scorer_gives_exactly_the_scores_of_the_bundle(night, scorer):
    scorer.promote(night, "first")
    bundle = Bundle.load(night.folder("export"))
    raw = night.raw().slice(0, 1000)
    answer = scorer.score(raw)
    assert answer.status_code == 200
    assert answer.json()["champion"]["run_id"] == "first"
    assert answer.json()["champion"]["bundle"] == night.stage("export").manifest.digest[:12]
    assert answer.json()["probabilities"] == bundle.score(raw).tolist()
    # One user and many ads: the request sends shared values once.
    one = raw.select(bundle.columns).slice(0, 1).to_pylist()[0]
    ads = raw.select(["ad_id", "ad_category"]).slice(0, 50).to_pylist()
    body = json.dumps({"context": one, "rows": ads}, default=lambda t: t.isoformat())
    whole = pa.Table.from_pylist([{**one, **ad} for ad in ads],
                                 schema=read_columns(night.folder("export")))  # fmt: skip
    content = scorer.http.post("/score", content=body).json()
    assert content["probabilities"] == bundle.score(whole).tolist()
    assert len(set(content["probabilities"])) > 10
    assert scorer.score(raw.slice(0, 0)).json()["probabilities"] == []


def test_rows_without_a_user_get_the_score_of_training(night, scorer):
    """Null, an empty text, a UUID of zeros and an absent column all mean no user."""
    scorer.promote(night, "first")
    raw = night.raw().select([*read_columns(night.folder("export")).names, "position"])
    raw = raw.slice(0, 40)
    place = raw.column_names.index("user_id")
    nobody = raw.set_column(place, "user_id", pa.nulls(40, pa.string()))
    fitted = FittedFeatures.load(night.folder("featurize") / "fitted")
    model = load_model(night.folder("train") / "model")
    expected = model.predict(fitted.transform(nobody))
    assert np.abs(expected - model.predict(fitted.transform(raw))).max() > 1e-4
    answers = [scorer.score(raw.drop_columns(["user_id"])), scorer.score(nobody)]
    for spelled in ("", "00000000-0000-0000-0000-000000000000"):
        answers.append(scorer.score(raw.set_column(place, "user_id", pa.array([spelled] * 40))))
    first = answers[0].json()["probabilities"]
    assert first == pytest.approx(expected, abs=1e-6)
    for answer in answers:
        assert answer.json()["probabilities"] == first
    # A column of a similar name is a mistake, not a row without a user.
    answer = scorer.score(raw.rename_columns(["userid" if n == "user_id" else n
                                              for n in raw.column_names]))  # fmt: skip
    assert "column 'user_id' is missing → did you mean 'userid'?" in answer.json()["error"]


def test_promotions_and_rollbacks_fail_no_request(night, other, scorer):
    raw = night.raw().slice(0, 20)
    expected = {
        source.stage("export").manifest.digest[:12]: Bundle.load(source.folder("export")).score(raw)
        for source in (night, other)
    }
    first, second = expected.values()
    assert np.abs(first - second).max() > 1e-3, "the two must differ"
    numbers = {scorer.promote(night, "again")}
    answers: list[httpx.Response] = []
    done = threading.Event()

    def call() -> None:
        while not done.is_set():
            answers.append(scorer.score(raw))

    def number_of(answer: httpx.Response) -> int:
        return answer.json()["champion"]["number"]

    def answered_by(number: int) -> None:
        until(lambda: number_of(answers[-1]) == number, what=f"an answer of champion #{number}")

    callers = [threading.Thread(target=call) for _ in range(4)]
    for each in callers:
        each.start()
    try:
        until(lambda: answers, what="the first answer")
        numbers.add(second := scorer.promote(other, "second"))
        answered_by(second)
        numbers.add(back := scorer.pointer.rollback("tests").number)
        scorer.until(back)
        answered_by(back)
    finally:
        done.set()
        for each in callers:
            each.join()
    assert {answer.status_code for answer in answers} == {200}
    assert set(map(number_of, answers)) == numbers
    for each in answers:
        content = each.json()
        assert content["probabilities"] == expected[content["champion"]["bundle"]].tolist()


def test_a_bundle_with_another_digest_is_reported_and_not_served(night, other, scorer):
    before = scorer.promote(night, "sound")
    scorer.pointer.promote(
        run_id="broken",
        night=night.run.date,
        bundle_uri=night.stage("export").manifest.digest,
        bundle_digest="0" * 32,
        reason="tests",
    )
    until(lambda: scorer.http.get("/health").json()["trouble"])
    health = scorer.http.get("/health").json()
    assert "000000000000 was promoted" in health["trouble"]
    assert health["champion"]["number"] == before
    assert scorer.score(night.raw().slice(0, 5)).status_code == 200
    scorer.promote(night, "mended")
    assert scorer.http.get("/health").json()["trouble"] is None


def test_the_scorer_recovers_after_a_bundle_that_cannot_be_loaded(night, other, scorer):
    before = scorer.promote(night, "sound")
    broken = scorer.workspace / "broken"
    shutil.copytree(night.folder("export"), broken)
    (broken / "fitted" / "definition.json").write_bytes(b"\xff\xfe[[")
    (broken / "columns.arrow").write_bytes(b"\0" * 64)
    (broken / "model.onnx").write_bytes(b"")
    manifest = (broken / "manifest.json").read_text()
    scorer.pointer.promote(
        run_id="damaged", night=night.run.date, bundle_uri="broken",
        bundle_digest=json.loads(manifest)["digest"], reason="tests",
    )  # fmt: skip
    until(lambda: scorer.http.get("/health").json()["trouble"])
    health = scorer.http.get("/health").json()
    assert health["champion"]["number"] == before
    ready = scorer.http.get("/ready")
    assert (ready.status_code, ready.json()["trouble"]) == (200, health["trouble"])
    scorer.promote(other, "sound again")
    assert scorer.http.get("/ready").json()["trouble"] is None


def test_health_and_metrics_add_up_over_all_processes(night, scorer):
    number = scorer.promote(night, "counted")
    before = scorer.http.get("/health").json()
    unprepared = scorer.metric("nightbid_unprepared_requests_total")
    timed = scorer.metric("nightbid_request_seconds_count")
    for _ in range(20):  # one connection per request, so that both processes answer some
        plain = {"trust_env": False, "timeout": 120}
        with httpx.Client(base_url=scorer.http.base_url, **plain) as http:
            assert http.get("/health").json()["processes"] == 2
            body = json.dumps({"rows": night.raw().slice(0, 3).to_pylist()},
                              default=lambda t: t.isoformat())  # fmt: skip
            assert http.post("/score", content=body).status_code == 200
    health = scorer.http.get("/health").json()
    added = [health[name] - before[name] for name in ("requests", "rows")]
    assert added == [20, 60]
    serving_it = rf'nightbid_champion_processes{{.*number="{number}".*}}'
    until(lambda: scorer.metric(serving_it) == 2)
    assert scorer.metric("nightbid_request_seconds_count") - timed == 20
    # Rows with times are read column by column. One connection, and so one process, is asked.
    counted = "nightbid_unprepared_requests_total"
    until(lambda: scorer.metric(counted) - unprepared == 20, what="20 unprepared requests")
    assert re.search(r"nightbid_lookup_missed_total \d+", scorer.http.get("/metrics").text)


def test_a_process_that_ends_is_replaced_and_one_that_stalls_goes_on(night, tmp_path):
    with serving(tmp_path, "--processes", "2", *_ipv6()) as scorer:
        scorer.promote(night, "first")
        stalled, ended = scorer.workers()
        stalled.suspend()
        ended.kill()
        time.sleep(7)  # uvicorn replaces a process that is silent for 5 s, even a starting one
        stalled.resume()
        until(lambda: len(scorer.workers()) == 2, what="two processes")
        assert stalled.is_running()
        assert ended not in scorer.workers()
        until(lambda: scorer.http.get("/health").json()["processes"] == 2, what="both serve")
        assert scorer.score(night.raw().slice(0, 5)).status_code == 200
        scorer.process.send_signal(signal.SIGTERM)
        assert scorer.process.wait(120) in (0, -signal.SIGTERM)


def _ipv6() -> tuple[str, ...]:
    """Return the options of a scorer on the IPv6 loopback, on machines that have one."""
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return ()
    return ("--host", "::1")


def test_a_scorer_that_starts_on_a_damaged_champion_answers_503(night, tmp_path):
    broken = tmp_path / "ws" / "broken"
    shutil.copytree(night.folder("export"), broken)
    (broken / "columns.arrow").write_bytes(b"\0" * 64)
    digest = json.loads((broken / "manifest.json").read_text())["digest"]
    ChampionPointer(Workspace(tmp_path / "ws"), "small").promote(
        run_id="damaged", night=night.run.date, bundle_uri="broken",
        bundle_digest=digest, reason="tests",
    )  # fmt: skip
    with serving(tmp_path, "--processes", "1") as scorer:
        for path in ("/ready", "/columns"):
            answer = scorer.http.get(path)
            assert answer.status_code == 503
            assert "no champion serves" in answer.json()["error"]
        assert scorer.http.get("/health").json()["trouble"]
        number = scorer.promote(night, "sound")
        assert scorer.score(night.raw().slice(0, 5)).status_code == 200
        scorer.pointer.retire(number, "it read the install time")
        until(lambda: scorer.http.get("/ready").status_code != 200)
        error = scorer.score(night.raw().slice(0, 5)).json()["error"]
        assert error.startswith("no champion serves: the champion was retired → `nightbid rollback")
