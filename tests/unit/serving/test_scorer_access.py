"""Tests tokens, TLS and rate limits of the scorer."""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import socket
import ssl
import time

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from emulator.installation import until
from nightbid.scorer.access import RateLimit
from preloaded import COMMANDS

from .running import serving
from .small_night import PIPELINE

FIRST, SECOND = "first-token-of-the-tests", "another-token-of-the-tests"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def certificate(folder):
    """Create a self-signed certificate for 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    cert, private = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert, private


def test_tokens_tls_and_rate_limits_are_enforced(night, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text(f"# who may ask\nbidder {FIRST}\n")
    cert, key = certificate(tmp_path)
    options = ("--processes", "2", "--rate-limit", "2", "--token-file", str(tokens),
               "--client-seconds", "4", "--tls-cert", str(cert), "--tls-key", str(key))  # fmt: skip
    trust = ssl.create_default_context(cafile=str(cert))
    with serving(tmp_path, *options, verify=trust) as scorer:
        assert scorer.http.base_url.scheme == "https"
        # Connections that never speak TLS block no other client, and the scorer closes them.
        address = (scorer.http.base_url.host, scorer.http.base_url.port)
        silent = [socket.create_connection(address) for _ in range(300)]
        # Load balancers need no token; every other client does.
        scorer.promote(night, "first")
        assert scorer.http.get("/ready").status_code == 200
        for path in ("/score", "/columns", "/metrics", "/nothing"):
            for headers in ({}, bearer(SECOND), {"Authorization": FIRST}, bearer("ü")):
                answer = scorer.http.get(
                    path, headers=[(k, v.encode("latin-1")) for k, v in headers.items()]
                )
                assert answer.status_code == 401, answer.text
                assert "Authorization: Bearer TOKEN" in answer.json()["error"]
                assert answer.headers["www-authenticate"] == "Bearer"
        scorer.http.headers.update(bearer(FIRST))
        raw = night.raw().slice(0, 5)
        assert scorer.score(raw).status_code == 200
        # The limit is 2 a second, over all processes and connections of the client.
        statuses = []
        for _ in range(40):
            with httpx.Client(
                base_url=scorer.http.base_url, verify=trust, trust_env=False, timeout=120,
                headers=bearer(FIRST),
            ) as other:  # fmt: skip
                statuses.append(other.get("/columns"))
        refused = [response for response in statuses if response.status_code == 429]
        assert 10 <= len(refused) < 40
        assert refused[0].headers["retry-after"] == "1"
        assert "bidder exceeds its request rate" in refused[0].json()["error"]
        assert scorer.http.get("/health").status_code == 200
        # A new token is valid without a restart, and the old one is no longer valid.
        tokens.write_text(f"bidder {SECOND}\n")
        until(lambda: scorer.http.get("/columns", headers=bearer(SECOND)).status_code != 401)
        until(lambda: {scorer.http.get("/columns").status_code for _ in range(4)} == {401})

        def metrics() -> str:
            # The client may be over its rate for a moment.
            answer = scorer.http.get("/metrics", headers=bearer(SECOND))
            return answer.text if answer.status_code == 200 else ""

        text = until(metrics)
        assert 'nightbid_refused_total{reason="no token"}' in text
        assert 'nightbid_refused_total{reason="rate limit"}' in text
        silent[0].settimeout(120)
        assert silent[0].recv(1) == b""
        for connection in silent:
            connection.close()
        assert FIRST not in scorer.log()
        assert "Traceback" not in scorer.log()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--host", "0.0.0.0"], "pass --token-file FILE, or --insecure"),
        (["--host", "::"], ":: can be reached from other machines"),
        (["--token-file", "absent"], "absent: No such file or directory"),
        (["--token-file", "short"], "the token of line 1 has 5 characters"),
        (["--token-file", "empty"], "empty: no token"),
        (["--tls-cert", "short"], "a certificate without its key"),
        (["--tls-cert", "short", "--tls-key", "short"], "use PEM files"),
    ],
)
def test_unsafe_or_invalid_access_options_are_rejected_in_one_line(
    tmp_path, monkeypatch, options, line
):
    (tmp_path / "small.yaml").write_text(PIPELINE)
    (tmp_path / "short").write_text("12345\n")
    (tmp_path / "empty").write_text("# none\n")
    monkeypatch.chdir(tmp_path)
    environment = {**os.environ, "NIGHTBID_PIPELINES": str(tmp_path), "COLUMNS": "300"}
    done = COMMANDS.run("serve", "small", "--port", "0", *options, env=environment)
    assert done.returncode == 2, done.stderr
    assert line in done.stderr
    assert "Traceback" not in done.stderr


def test_a_rate_limit_is_shared_by_all_processes(tmp_path):
    first, second = (RateLimit(tmp_path / "rates", 10) for _ in range(2))
    begun = time.monotonic()
    admitted = sum(not limit.wait("bidder") for _ in range(50) for limit in (first, second))
    assert 11 <= admitted <= 12 + 10 * (time.monotonic() - begun)
    assert not first.wait("another client")
