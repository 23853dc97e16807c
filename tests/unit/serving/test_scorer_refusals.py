"""The scorer refuses bad requests with one line each."""

from __future__ import annotations

import gzip
import json
import os
import re
import zlib

from nightbid.scorer import rows
from preloaded import COMMANDS

from .small_night import PIPELINE


def _bad(raw: list[dict], **change: object) -> dict:
    return {"rows": [raw[0], {**raw[1], **change}]}


def test_bad_requests_get_a_one_line_error_with_the_value(night, scorer):
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
        ({"row": []}, 422, "not a list of rows"),
        ([], 422, "not a list of rows"),
        ({"rows": [], "users": 1}, 422, "unknown key 'users'"),
        ({"rows": [], "context": None}, 422, "context: null is not an object"),
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
    for packed in (gzip.compress(half), zlib.compress(half)):
        answer = scorer.http.post("/score", content=packed, headers={"Content-Encoding": "gzip"})
        assert answer.status_code == 422
        assert answer.json()["error"] == "body: compressed → send it without Content-Encoding"
    for method, path, status, line in (
        ("POST", "/score/", 404, "POST /score/: not found → use POST /score or /rank;"),
        ("GET", "/nothing", 404, "GET /nothing: not found → use POST /score or /rank; GET /col"),
        ("POST", "/predict", 404, "POST /predict: not found → use POST /score or /rank;"),
        ("GET", "/score", 405, "GET /score: method not allowed → use POST /score or /rank;"),
    ):
        answer = scorer.http.request(method, path)
        assert answer.status_code == status
        assert answer.json()["error"].startswith(line)
    assert scorer.http.get("/health").json()["refused"] - before == len(cases) + 9


def test_a_port_or_a_log_that_cannot_be_used_is_reported_in_one_line(scorer, tmp_path):
    port = str(scorer.http.base_url.port)
    (tmp_path / "small.yaml").write_text(PIPELINE)
    environment = {**os.environ, "NIGHTBID_PIPELINES": str(tmp_path)}
    log = ("--shadow", "previous", "--shadow-log", str(tmp_path / "nowhere" / "log.jsonl"))
    for options, line in (
        (("--port", port), "choose another --port"),
        (log, "(No such file or directory) → name a file in a folder that exists"),
    ):
        done = COMMANDS.run("serve", "small", *options, env=environment)
        assert done.returncode == 2
        assert line in " ".join(done.stderr.split())
        assert "Traceback" not in done.stderr
