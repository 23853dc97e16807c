"""Slow, silent, half-sent, oversized and too many clients block no other client."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from functools import partial

import httpx
import pytest
from emulator.installation import until

from .running import serving


@pytest.fixture(scope="module")
def impatient(night, tmp_path_factory):
    """Start a scorer of one process with a short queue, which waits 3 s for its clients."""
    options = ("--processes", "1", "--queue-ms", "1", "--client-seconds", "3")
    with serving(tmp_path_factory.mktemp("impatient"), *options) as running:
        running.promote(night, "first")
        yield running


def test_silent_partial_and_oversized_requests_block_no_client(night, impatient):
    scorer = impatient
    host, port = scorer.http.base_url.host, scorer.http.base_url.port
    silent = [socket.create_connection((host, port)) for _ in range(300)]
    halves = [socket.create_connection((host, port)) for _ in range(300)]
    for client in halves[:150]:
        client.sendall(b"POST /score HTTP/1.1\r\nhost: x\r\n")
    for client in halves[150:]:
        client.sendall(b"POST /score HTTP/1.1\r\nhost: x\r\ncontent-length: 9999\r\n\r\n{")
    try:
        for _ in range(10):
            assert scorer.score(night.raw().slice(0, 5)).status_code == 200
        assert scorer.http.get("/health").status_code == 200
        answer = scorer.http.post("/score", content=b" " * ((16 << 20) + 1))
        assert answer.status_code == 413
        assert "more than 16 MiB" in answer.json()["error"]
        halves[0].settimeout(120)
        ended = b""
        while part := halves[0].recv(4096):
            ended += part
        assert b"408" in ended
        assert b"did not arrive within 3 s" in ended
    finally:
        for client in (*silent, *halves):
            client.close()
    assert scorer.score(night.raw().slice(0, 5)).status_code == 200


def test_an_overloaded_scorer_answers_503_with_retry_after(night, impatient):
    scorer = impatient
    raw = night.raw().slice(0, 100)
    body = json.dumps({"rows": raw.to_pylist()}, default=lambda t: t.isoformat()).encode()
    head = f"POST /score HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    host, port = scorer.http.base_url.host, scorer.http.base_url.port
    counted = (
        'nightbid_refused_total{reason="overloaded"}', 'nightbid_requests_total{endpoint="score"}',
    )  # fmt: skip
    before = {name: scorer.metric(name) for name in counted}
    answered: list[bytes] = []
    refused: list[bytes] = []

    def crowded() -> bool:
        with contextlib.ExitStack() as stack:
            crowd = [
                stack.enter_context(socket.create_connection((host, port), timeout=120))
                for _ in range(64)
            ]
            for client in crowd:
                client.sendall(head.encode() + body[:-1])
            # All requests become whole almost at once.
            for client in crowd:
                client.sendall(body[-1:])
            for answer in (client.recv(65536) for client in crowd):
                assert answer[:12] in (b"HTTP/1.1 200", b"HTTP/1.1 503")
                (answered if answer[9:12] == b"200" else refused).append(answer)
        return bool(answered and refused)

    # A machine that stops this process between two of them does not overload the scorer.
    until(crowded)
    for each in refused:
        assert b"retry-after: 1" in each.lower()
        assert b'{"error":"' in each
    added = [scorer.metric(name) - count for name, count in before.items()]
    assert added == [len(refused), len(answered)]


def _send(scorer, data: bytes, *, wait: float = 120) -> bytes:
    """Send bytes over a new connection and return all that comes back."""
    host, port = scorer.http.base_url.host, scorer.http.base_url.port
    with socket.create_connection((host, port)) as one:
        one.settimeout(wait)
        answer = b""
        with contextlib.suppress(ConnectionError):
            one.sendall(data)
            while part := one.recv(65536):
                answer += part
        return answer


def _post(body: bytes, *more: str, path: str = "/score") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: x", f"content-length: {len(body)}",
             "connection: close", *more]  # fmt: skip
    return "\r\n".join([*lines, "", ""]).encode() + body


def test_hostile_requests_use_little_memory_and_log_no_traceback(night, impatient):
    scorer = impatient
    raw = night.raw().slice(0, 5)
    assert scorer.score(raw).status_code == 200
    (worker,) = scorer.workers()
    memory = worker.memory_info().rss
    before = {
        reason: scorer.metric(f'nightbid_refused_total{{reason="{reason}"}}')
        for reason in ("too large", "invalid", "not http", "client gone")
    }
    chunks = b"".join(b"100000\r\n" + b" " * (1 << 20) + b"\r\n" for _ in range(20))
    chunked = b"POST /score HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" + chunks
    depth = 5_000_000
    cases = [
        (chunked, b" 413 ", b"more than 16 MiB"),
        (_post(b'{"rows":[' + b"{}," * 5_000_000 + b"{}]}"), b" 413 ", b"1,048,576 values"),
        (_post(b'{"rows":[{"a":' + b"[" * 1_000_000), b" 422 ", b"not JSON"),
        (_post(b'{"rows":[{"a":' + b'{"a":' * 100_000), b" 422 ", b"not JSON"),
        (_post(b'{"context":{"a":' + b"[" * 100_000), b" 422 ", b"not JSON"),
        (_post(b'{"rows":[],"bids":' + b"[" * 100_000, path="/rank"), b" 422 ", b"not JSON"),
        (_post(b'{"rows":[{"a":' + b"9" * depth + b"}]}"), b" 422 ", b'"error"'),
        (b"GET / HTTP/1.1\r\nx: " + b"a" * 100_000 + b"\r\n\r\n", b" 431 ", b"64 KiB"),
        (b"\x16\x03\x01\x02\x00 a TLS handshake", b" 400 ", b"not HTTP"),
        (b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n", b" 400 ", b"not HTTP"),
        (_post(b'{"rows":[]}', "content-length: 3"), b" 400 ", b"not HTTP"),
        # Java's client offers another protocol with its first request.
        (_post(b'{"rows":[]}', "upgrade: h2c", "connection: upgrade"), b" 200 ", b"ties\":[]"),
    ]  # fmt: skip
    for data, status, line in cases:
        answer = _send(scorer, data)
        assert status in answer.split(b"\r\n")[0], (data[:60], answer[:200])
        assert line in answer, (data[:60], answer[:300])
    # A refusal reaches a client that sends for a while longer before it reads.
    for _ in range(20):
        with socket.create_connection(
            (scorer.http.base_url.host, scorer.http.base_url.port)
        ) as one:
            one.sendall(b"POST /score HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\n\r\n")
            for _ in range(8):
                one.sendall(b" " * (1 << 20))
            one.settimeout(120)
            answer = one.recv(65536)
            assert answer.startswith(b"HTTP/1.1 413 "), answer[:200]
            assert b"more than 16 MiB" in answer
    # Clients disconnect: in the body, before the answer, and with a reset.
    body = json.dumps({"rows": raw.to_pylist()}, default=lambda t: t.isoformat()).encode()
    host, port = scorer.http.base_url.host, scorer.http.base_url.port
    for at in range(60):
        one = socket.create_connection((host, port))
        if at % 3 == 2:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        one.sendall(_post(body)[: -20 if at % 3 == 0 else None])
        one.close()
    until(lambda: scorer.score(raw).status_code == 200)  # requests of lost clients are waiting

    def more(reason: str) -> bool:
        return scorer.metric(f'nightbid_refused_total{{reason="{reason}"}}') > before[reason]

    for reason in before:
        until(partial(more, reason), what=reason)
    assert worker.memory_info().rss - memory < 400 << 20
    assert "Traceback" not in scorer.log(), scorer.log()


def test_every_request_is_counted_as_answered_or_refused(night, impatient):
    scorer = impatient
    raw = night.raw().slice(0, 5)
    body = json.dumps({"rows": raw.to_pylist()}, default=lambda t: t.isoformat()).encode()
    host, port = scorer.http.base_url.host, scorer.http.base_url.port
    counts = "nightbid_(?:requests|refused)_total{.*}"
    assert scorer.score(raw).status_code == 200
    before = scorer.metric(counts)
    (worker,) = scorer.workers()
    worker.suspend()
    # Whole requests of clients that give up before they are answered.
    for _ in range(40):
        with socket.create_connection((host, port)) as one:
            one.sendall(_post(body))
    worker.resume()
    until(lambda: scorer.metric(counts) - before == 40, what="40 requests in the counts")


def test_a_client_that_reads_no_answer_is_disconnected(night, impatient):
    scorer = impatient
    rows = [{}] * 16_000
    context = night.raw().slice(0, 1).to_pylist()[0]
    body = json.dumps({"rows": rows, "context": context}, default=lambda t: t.isoformat())
    request = _post(body.encode()).replace(b"connection: close\r\n", b"")
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    one.connect((scorer.http.base_url.host, scorer.http.base_url.port))
    one.settimeout(2)
    with contextlib.suppress(OSError):
        for _ in range(200):  # until the buffers of both sides are full
            one.sendall(request)
    until(lambda: 'reason="unread"' in scorer.http.get("/metrics").text)
    one.close()
    assert scorer.score(night.raw().slice(0, 5)).status_code == 200
    assert "Traceback" not in scorer.log(), scorer.log()


def test_health_answers_under_overload(night, impatient):
    scorer = impatient
    raw = night.raw().slice(0, 100)
    body = json.dumps({"rows": raw.to_pylist()}, default=lambda t: t.isoformat()).encode()
    large = json.dumps(
        {"rows": night.raw().slice(0, 2500).to_pylist()}, default=lambda t: t.isoformat()
    ).encode()
    done = threading.Event()
    statuses: list[int] = []

    def call(content: bytes) -> None:
        # Without TLS, which reads all certificates of the machine.
        plain = {"verify": False, "trust_env": False}
        with httpx.Client(base_url=scorer.http.base_url, timeout=120, **plain) as http:
            while not done.is_set():
                statuses.append(http.post("/score", content=content).status_code)

    callers = [
        threading.Thread(target=call, args=(content,)) for content in [body] * 40 + [large] * 8
    ]
    for caller in callers:
        caller.start()
    try:
        until(lambda: {200, 503} <= set(statuses))
        seconds = []
        for _ in range(5):
            begun = time.monotonic()
            health = scorer.http.get("/health").json()
            seconds.append(time.monotonic() - begun)
            time.sleep(0.1)
    finally:
        done.set()
        for caller in callers:
            caller.join()
    # On a busy machine, these clients may send their requests too slowly (408).
    assert {200, 503} <= set(statuses) <= {200, 408, 503}
    assert health["status"] == "serving"
    # The machine may delay single answers, a queue all of them.
    assert min(seconds) < 5, seconds
    assert "Traceback" not in scorer.log()


def test_answers_do_not_depend_on_http_framing(night, scorer):
    scorer.promote(night, "first")
    raw = night.raw().slice(0, 5)
    body = json.dumps({"rows": raw.to_pylist()}, default=lambda t: t.isoformat()).encode()
    length = f"content-length: {len(body)}\r\n".encode()
    post = b"POST /score HTTP/1.1\r\nhost: x\r\n"
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    whole = post + length + b"\r\n" + body
    closing = post + b"connection: close\r\n" + length + b"\r\n" + body
    expected = scorer.score(raw).json()["probabilities"]
    for parts in (
        [whole],
        [whole[:30], whole[30:90], whole[90:-5], whole[-5:]],  # in pieces
        [post + b"transfer-encoding: chunked\r\n\r\n" + chunks],
        [post + b"Expect: 100-continue\r\n" + length + b"\r\n", body],
        [whole.replace(b"/score", b"/score?of=me", 1)],
        [whole + whole + whole.replace(length, b"x-twice: 1\r\nx-twice: 2\r\n" + length) + whole],
        [closing],
        [whole.replace(b"HTTP/1.1", b"HTTP/1.0", 1)],
    ):
        count = sum(part.count(b"POST /score") for part in parts)
        answers = _exchange(scorer, parts, count)
        assert [answer["probabilities"] for answer in answers] == [expected] * count, parts


def _exchange(scorer, parts: list[bytes], count: int) -> list[dict]:
    """Send a request in parts and return the answers."""
    url = scorer.http.base_url
    messages = []
    with socket.create_connection((url.host, url.port), timeout=120) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(0.02)
        answers = connection.makefile("rb")
        while len(messages) < count:
            head = b"".join(iter(answers.readline, b"\r\n"))
            if b" 100 " not in head:
                assert b" 200 " in head
                length = re.search(rb"content-length: (\d+)", head)
                messages.append(json.loads(answers.read(int(length[1]))))
    return messages
