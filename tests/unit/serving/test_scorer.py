"""The scorer, as its callers meet it: a process behind a socket."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nightbid.config.load import parse_pipeline
from nightbid.night.champion import ChampionPointer
from nightbid.night.record import RunRecord
from nightbid.scorer import rows
from nightbid.serving.bundle import Bundle, read_columns
from nightbid.storage.workspace import Workspace

from .conftest import PIPELINE, SmallNight


class Scorer:
    """A running `nightbid serve`, and the champion that it follows."""

    def __init__(self, night: SmallNight, process: subprocess.Popen[str], address: str) -> None:
        self.night = night
        self.process = process
        self.http = httpx.Client(base_url=address, timeout=30, trust_env=False)
        self.pointer = ChampionPointer(Workspace(night.root / "ws"), "small")

    def promote(self, night: SmallNight, name: str) -> int:
        """Promote what a night exported, and wait until it serves; its number."""
        export = night.stage("export")
        champion = self.pointer.promote(
            run_id=name,
            night=night.run.date,
            bundle_uri=export.uri,
            bundle_digest=export.manifest.digest,
            reason="tests",
        )
        self.until(champion.number)
        return champion.number

    def score(self, table: pa.Table, **more: object) -> httpx.Response:
        body = json.dumps({"rows": table.to_pylist(), **more}, default=lambda t: t.isoformat())
        return self.http.post("/score", content=body)

    def until(self, number: int) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            champion = self.http.get("/health").json()["champion"]
            if champion and champion["number"] == number:
                return
            time.sleep(0.02)
        raise AssertionError(self.http.get("/health").text)


@pytest.fixture(scope="module")
def other(night: SmallNight) -> SmallNight:
    """Another model of the same night."""
    found = SmallNight(night.root)
    text = PIPELINE.replace("dcn_v2", "logistic_regression")
    found.spec = parse_pipeline(text, "small.yaml")
    found.run = RunRecord.start(night.run.workspace, found.spec, night.run.date, run_id="other")
    for name in ("sample", "featurize", "train", "export"):
        found.stage(name)
    return found


@contextlib.contextmanager
def serving(night: SmallNight, folder: Path, *options: str, fresh: bool = True) -> Iterator[Scorer]:
    """Processes of its own, in a workspace whose pipeline has no champion unless not `fresh`."""
    (folder / "small.yaml").write_text(PIPELINE)
    if fresh:
        shutil.rmtree(night.root / "ws" / "champion", ignore_errors=True)
    environment = {
        **os.environ,
        "NIGHTBID_WORKSPACE": str(night.root / "ws"),
        "NIGHTBID_PIPELINES": str(folder),
        "PYTHONUNBUFFERED": "1",
    }
    command = [sys.executable, "-m", "nightbid", "serve", "small", "--port", "0", "--poll", "0.1",
               *options]  # fmt: skip
    process = subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        found = re.search(r"http://\S+:\d+", process.stdout.readline())
        assert found, "the scorer says where it listens"
        running = Scorer(night, process, found[0])
        with running.http:
            yield running
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def scorer(night: SmallNight, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scorer]:
    with serving(night, tmp_path_factory.mktemp("scorer")) as running:
        yield running


def test_before_the_first_champion_it_waits_and_says_so(night, tmp_path):
    with serving(night, tmp_path) as scorer:
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
        # Told to stop, it ends by itself.
        scorer.process.send_signal(signal.SIGTERM)
        assert scorer.process.wait(30) in (0, -signal.SIGTERM)


def test_rows_score_exactly_as_the_bundle_scores_them(night, scorer):
    scorer.promote(night, "first")
    bundle = Bundle.load(night.folder("export"))
    raw = night.raw().slice(0, 1000)
    answer = scorer.score(raw)
    assert answer.status_code == 200
    assert answer.json()["champion"]["run_id"] == "first"
    assert answer.json()["champion"]["bundle"] == night.stage("export").manifest.digest[:12]
    assert answer.json()["probabilities"] == bundle.score(raw).tolist()
    # One user and many ads: what they share is sent once.
    one = raw.select(bundle.columns).slice(0, 1).to_pylist()[0]
    ads = raw.select(["ad_id", "ad_category"]).slice(0, 50).to_pylist()
    body = json.dumps({"context": one, "rows": ads}, default=lambda t: t.isoformat())
    whole = pa.Table.from_pylist([{**one, **ad} for ad in ads],
                                 schema=read_columns(night.folder("export")))  # fmt: skip
    found = scorer.http.post("/score", content=body).json()
    assert found["probabilities"] == bundle.score(whole).tolist()
    assert len(set(found["probabilities"])) > 10
    assert scorer.score(raw.slice(0, 0)).json()["probabilities"] == []


def test_promotions_and_rollbacks_drop_no_request(night, other, scorer):
    raw = night.raw().slice(0, 20)
    expected = {
        each.stage("export").manifest.digest[:12]: Bundle.load(each.folder("export")).score(raw)
        for each in (night, other)
    }
    first, second = expected.values()
    assert np.abs(first - second).max() > 1e-3, "the two must be told apart"
    numbers = {scorer.promote(night, "again")}
    answers: list[httpx.Response] = []
    done = threading.Event()

    def call() -> None:
        while not done.is_set():
            answers.append(scorer.score(raw))

    callers = [threading.Thread(target=call) for _ in range(4)]
    for each in callers:
        each.start()
    try:
        numbers.add(scorer.promote(other, "second"))
        numbers.add(back := scorer.pointer.rollback("tests").number)
        scorer.until(back)
    finally:
        done.set()
        for each in callers:
            each.join()
    assert {each.status_code for each in answers} == {200}
    assert {each.json()["champion"]["number"] for each in answers} == numbers
    for each in answers:
        said = each.json()
        assert said["probabilities"] == expected[said["champion"]["bundle"]].tolist()


def test_a_damaged_bundle_changes_nothing_and_is_named(night, other, scorer):
    before = scorer.promote(night, "sound")
    scorer.pointer.promote(
        run_id="broken",
        night=night.run.date,
        bundle_uri=other.stage("export").uri,
        bundle_digest="0" * 32,
        reason="tests",
    )
    deadline = time.monotonic() + 30
    while not (health := scorer.http.get("/health").json())["trouble"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "promoted was 000000000000" in health["trouble"]
    assert health["champion"]["number"] == before
    assert scorer.score(night.raw().slice(0, 5)).status_code == 200
    scorer.promote(night, "mended")
    assert scorer.http.get("/health").json()["trouble"] is None


def test_any_error_of_a_damaged_bundle_leaves_following_alive(night, other, scorer, tmp_path):
    before = scorer.promote(night, "sound")
    broken = tmp_path / "broken"
    shutil.copytree(night.folder("export"), broken)
    (broken / "fitted" / "definition.json").write_bytes(b"\xff\xfe[[")
    (broken / "columns.arrow").write_bytes(b"\0" * 64)
    (broken / "model.onnx").write_bytes(b"")
    manifest = (broken / "manifest.json").read_text()
    scorer.pointer.promote(
        run_id="damaged", night=night.run.date, bundle_uri=str(broken),
        bundle_digest=json.loads(manifest)["digest"], reason="tests",
    )  # fmt: skip
    deadline = time.monotonic() + 30
    while not (health := scorer.http.get("/health").json())["trouble"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert health["champion"]["number"] == before
    ready = scorer.http.get("/ready")
    assert (ready.status_code, ready.json()["trouble"]) == (200, health["trouble"])
    scorer.promote(other, "sound again")
    assert scorer.http.get("/ready").json()["trouble"] is None


def _bad(raw: list[dict], **change: object) -> dict:
    return {"rows": [raw[0], {**raw[1], **change}]}


def test_bad_requests_get_one_line_that_names_the_value(night, scorer):
    scorer.promote(night, "first")
    before = scorer.http.get("/health").json()["refused"]
    raw = json.loads(json.dumps(night.raw().slice(0, 2).to_pylist(),
                                default=lambda t: t.isoformat()))  # fmt: skip
    lacking = {"rows": [raw[0], {k: v for k, v in raw[1].items() if k != "ad_category"}]}
    cases = [
        (_bad(raw, ad_id=17), 422, r"rows\[1\]: 17 is not a value of 'ad_id', which is string"),
        (_bad(raw, session_depth="two"), 422, r"rows\[1\]: \"two\" is not a value of 'session_"),
        (_bad(raw, session_depth=True), 422, r"true is not a value of 'session_depth'"),
        (_bad(raw, time="yesterday"), 422, r"\"yesterday\" is not .*'time'.*ISO 8601"),
        (_bad(raw, interests=7), 422, "7 is not a value of 'interests'"),
        (lacking, 422, r"rows\[1\]: column 'ad_category' is missing"),
        ({"rows": [5]}, 422, r"rows\[0\]: 5 is not an object"),
        ({"row": []}, 422, "no list of rows"),
        ([], 422, "no list of rows"),
        ({"rows": [], "users": 1}, 422, "unknown key 'users'"),
        ({"rows": [{}] * (rows.MOST_ROWS + 1)}, 413, "send at most 16,384"),
    ]
    for body, status, line in cases:
        answer = scorer.http.post("/score", json=body)
        assert answer.status_code == status, answer.text
        assert re.search(line, answer.json()["error"]), answer.text
        assert "\n" not in answer.json()["error"]
    half = json.dumps(_bad(raw, ad_id="\ud800")).encode()
    for content, line in ((b'{"rows": [', "not JSON"), (b"[" * 100_000, "not JSON"),
                          (half, "'ad_id', which is string")):  # fmt: skip
        answer = scorer.http.post("/score", content=content)
        assert answer.status_code == 422
        assert line in answer.json()["error"]
    assert scorer.http.get("/nothing").status_code == 404
    assert scorer.http.get("/score").status_code == 405
    assert scorer.http.get("/health").json()["refused"] - before == len(cases) + 5


def test_candidates_are_ordered_by_ecpm_and_pay_the_second_price(night, scorer):
    scorer.promote(night, "first")
    raw = night.raw().slice(0, 40)
    quality = np.array(scorer.score(raw).json()["probabilities"])
    bids = [round(0.5 + 0.1 * (at % 7), 2) for at in range(40)]
    ids = [f"c{at:02d}" for at in range(40)]

    def ranking(**more: object) -> list[dict]:
        body = {"rows": raw.to_pylist(), "bids": bids, "ids": ids, **more}
        answer = scorer.http.post(
            "/rank", content=json.dumps(body, default=lambda t: t.isoformat())
        )
        assert answer.status_code == 200, answer.text
        return answer.json()["ranking"]

    found = ranking()
    assert len(found) == 40
    scores = np.array([each["bid"] * each["probability"] for each in found])
    assert (np.diff(scores) <= 0).all()
    assert [each["probability"] for each in found] == [quality[each["row"]] for each in found]
    for above, below in itertools.pairwise(found):
        expected = below["bid"] * below["probability"] / above["probability"]
        assert above["price"] == pytest.approx(min(expected, above["bid"]))
    assert found[-1]["price"] == 0
    floor = float(np.median(quality))
    kept = ranking(auction={"pricing": "first", "reserve": 0.7, "quality_floor": floor})
    assert {each["id"] for each in kept} == {
        name for name, bid, q in zip(ids, bids, quality, strict=True) if bid >= 0.7 and q >= floor
    }
    assert all(each["price"] == each["bid"] for each in kept)
    # Equal candidates: the smaller id first.
    one = raw.slice(0, 1).to_pylist()[0]
    tied = ranking(rows=[one] * 3, bids=[1, 1, 1], ids=["b", "c", "a"])
    assert [each["id"] for each in tied] == ["a", "b", "c"]
    assert [each["price"] for each in tied] == pytest.approx([1, 1, 0])
    for wrong, line in (
        ({"bids": [1]}, "bids: 1 values for 40 rows"),
        ({"bids": [True] * 40}, r"bids\[0\]: True is not a number"),
        ({"bids": [-1] * 40}, "-1"),
        ({"ids": [1] * 39}, "ids: not 40 ids"),
        ({"auction": {"prising": "gsp"}}, "unknown key 'prising'"),
        ({"auction": {"pricing": "third"}}, "pricing is 'third'"),
        ({"auction": {"slots": [0.5, 1]}}, "list the slots from best to worst"),
    ):
        body = {"rows": raw.to_pylist(), "bids": bids, "ids": ids, **wrong}
        answer = scorer.http.post(
            "/rank", content=json.dumps(body, default=lambda t: t.isoformat())
        )
        assert answer.status_code == 422, answer.text
        assert re.search(line, answer.json()["error"]), answer.text


def test_clients_that_send_nothing_or_half_or_too_much_hold_nobody(night, scorer):
    scorer.promote(night, "first")
    host, port = scorer.http.base_url.host, scorer.http.base_url.port
    silent = [socket.create_connection((host, port)) for _ in range(300)]
    halves = [socket.create_connection((host, port)) for _ in range(300)]
    for each in halves[:150]:
        each.sendall(b"POST /score HTTP/1.1\r\nhost: x\r\n")
    for each in halves[150:]:
        each.sendall(b"POST /score HTTP/1.1\r\nhost: x\r\ncontent-length: 9999\r\n\r\n{")
    try:
        for _ in range(10):
            assert scorer.score(night.raw().slice(0, 5)).status_code == 200
        assert scorer.http.get("/health").status_code == 200
        answer = scorer.http.post("/score", content=b" " * ((16 << 20) + 1))
        assert answer.status_code == 413
        assert "more than 16 MiB" in answer.json()["error"]
        halves[0].settimeout(60)
        ended = b""
        while part := halves[0].recv(4096):
            ended += part
        assert b"408" in ended
        assert b"did not arrive within" in ended
    finally:
        for each in (*silent, *halves):
            each.close()
    assert scorer.score(night.raw().slice(0, 5)).status_code == 200


def test_more_than_can_be_answered_in_time_is_refused_at_once(night, tmp_path):
    with serving(night, tmp_path, "--processes", "1", "--queue-ms", "1") as scorer:
        scorer.promote(night, "first")
        raw = night.raw().slice(0, 100)
        body = json.dumps({"rows": raw.to_pylist()}, default=lambda t: t.isoformat()).encode()
        head = f"POST /score HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        host, port = scorer.http.base_url.host, scorer.http.base_url.port
        crowd = [socket.create_connection((host, port)) for _ in range(64)]
        for each in crowd:
            each.settimeout(60)
            each.sendall(head.encode() + body)
        answers = [each.recv(65536) for each in crowd]
        for each in crowd:
            each.close()
        answered = [each for each in answers if each.startswith(b"HTTP/1.1 200")]
        refused = [each for each in answers if each.startswith(b"HTTP/1.1 503")]
        assert len(answered) + len(refused) == len(crowd)
        assert answered
        assert refused
        for each in refused:
            assert b"retry-after: 1" in each.lower()
            assert b'{"error":"' in each
        text = scorer.http.get("/metrics").text
        assert f'nightbid_refused_total{{reason="overloaded"}} {len(refused)}.0' in text
        assert f'nightbid_requests_total{{endpoint="score"}} {len(answered)}.0' in text


def test_health_and_metrics_speak_for_all_processes(night, tmp_path):
    with serving(night, tmp_path, "--processes", "2") as scorer:
        number = scorer.promote(night, "first")
        for _ in range(20):  # a connection each, so that both processes answer some
            with httpx.Client(base_url=scorer.http.base_url, trust_env=False) as http:
                assert http.get("/health").json()["processes"] == 2
                body = json.dumps({"rows": night.raw().slice(0, 3).to_pylist()},
                                  default=lambda t: t.isoformat())  # fmt: skip
                assert http.post("/score", content=body).status_code == 200
        health = scorer.http.get("/health").json()
        assert (health["requests"], health["rows"]) == (20, 60)
        text = scorer.http.get("/metrics").text
        assert re.search(rf'nightbid_champion_processes{{.*number="{number}".*}} 2.0', text)
        assert "nightbid_request_seconds_count 20.0" in text
        assert re.search(r"nightbid_lookup_missed_total \d+", text)


def test_a_scorer_that_starts_on_a_damaged_champion_answers_503(night, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(night.folder("export"), broken)
    (broken / "columns.arrow").write_bytes(b"\0" * 64)
    with serving(night, tmp_path) as scorer:
        digest = json.loads((broken / "manifest.json").read_text())["digest"]
        scorer.pointer.promote(
            run_id="damaged", night=night.run.date, bundle_uri=str(broken),
            bundle_digest=digest, reason="tests",
        )  # fmt: skip
        scorer.process.send_signal(signal.SIGTERM)
        scorer.process.wait(60)
        with serving(night, tmp_path, fresh=False) as again:
            for path in ("/ready", "/columns"):
                answer = again.http.get(path)
                assert answer.status_code == 503
                assert "no champion serves" in answer.json()["error"]
            assert again.http.get("/health").json()["trouble"]
            again.promote(night, "sound")
            assert again.score(night.raw().slice(0, 5)).status_code == 200


def test_a_taken_port_is_one_line(scorer, tmp_path):
    port = str(scorer.http.base_url.port)
    (tmp_path / "small.yaml").write_text(PIPELINE)
    done = subprocess.run(
        [sys.executable, "-m", "nightbid", "serve", "small", "--port", port],
        env={**os.environ, "NIGHTBID_PIPELINES": str(tmp_path)},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "choose another --port" in done.stderr
    assert "Traceback" not in done.stderr


COLUMNS = pa.schema(
    [
        ("id", pa.int64()),
        ("name", pa.string()),
        ("price", pa.float64()),
        ("tags", pa.list_(pa.string())),
        ("when", pa.timestamp("us", "UTC")),
        ("naive", pa.timestamp("ms")),
        ("day", pa.date32()),
        ("known", pa.bool_()),
        ("kind", pa.dictionary(pa.int32(), pa.string())),
    ]
)
VALUES = {
    "id": st.integers(-(2**63), 2**63 - 1),
    "name": st.text(),
    "price": st.floats(allow_nan=False, allow_infinity=False),
    "tags": st.lists(st.none() | st.text(max_size=3), max_size=3),
    "when": st.datetimes(timezones=st.just(UTC)),
    "naive": st.datetimes().map(lambda t: t.replace(microsecond=t.microsecond // 1000 * 1000)),
    "day": st.dates(),
    "known": st.booleans(),
    "kind": st.text(max_size=2),
}
ROW = st.fixed_dictionaries({name: st.none() | each for name, each in VALUES.items()})


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ROW, max_size=6), ROW)
def test_json_carries_every_type_unchanged(found, context):
    def written(**body: object) -> bytes:
        return json.dumps(body, default=lambda value: value.isoformat()).encode()

    logged = pa.Table.from_pylist(found, schema=COLUMNS)
    assert rows.parse(written(rows=found), COLUMNS).equals(logged)
    shared = pa.Table.from_pylist([context] * len(found), schema=COLUMNS)
    assert rows.parse(written(context=context, rows=[{} for _ in found]), COLUMNS).equals(shared)
