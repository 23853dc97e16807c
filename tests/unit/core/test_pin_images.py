"""`make pin-images` looks up each tag's digest in a registry, and builds use only these."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
TAGS = {"library/python": "3.11", "library/debian": "bookworm", "apache/beam": "2.77.0"}


class Registry(BaseHTTPRequestHandler):
    """Serves manifests to clients with a token, as Docker Hub does."""

    lies = False

    def do_GET(self) -> None:
        port = self.server.server_address[1]
        if self.path.startswith("/token?"):
            assert "scope=repository" in self.path
            self._answer(200, json.dumps({"token": "anybody"}).encode())
            return
        _, _, path = self.path.partition("/v2/")
        name, _, tag = path.partition("/manifests/")
        if self.headers.get("Authorization") != "Bearer anybody":
            challenge = f'Bearer realm="http://127.0.0.1:{port}/token",service="registry",'
            challenge += f'scope="repository:{name}:pull"'
            self._answer(401, b"", {"WWW-Authenticate": challenge})
        elif TAGS.get(name) != tag:
            self._answer(404, b"{}")
        else:
            body = manifest(name)
            digest = hashlib.sha256(b"other" if self.lies else body).hexdigest()
            self._answer(200, body, {"Docker-Content-Digest": f"sha256:{digest}"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def manifest(name: str) -> bytes:
    return json.dumps({"schemaVersion": 2, "manifests": [name]}).encode()


@pytest.fixture
def registry() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Registry,), {})) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def env_of(tmp_path: Path, registry: str, beam: str = "apache/beam:2.77.0") -> Path:
    path = tmp_path / ".env"
    path.write_text(
        f"FERNET_KEY=a=b\nBASE={registry}/library/python:3.11\n"
        f"DEBIAN={registry}/library/debian:bookworm@sha256:{'0' * 64}\nBEAM={registry}/{beam}\n"
    )
    path.chmod(0o600)
    return path


def pin(env: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / "pin_images.py"), "--env", str(env)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def loose(env: Path) -> str:
    program = (
        "import sys, pathlib; import audit; print(*audit.loose_images(pathlib.Path(sys.argv[1])))"
    )
    return subprocess.run(
        [sys.executable, "-c", program, str(env)],
        capture_output=True, text=True, check=True, cwd=ROOT / "tools",
    ).stdout  # fmt: skip


def test_images_are_pinned_to_the_digests_that_the_registry_serves(tmp_path, registry) -> None:
    env = env_of(tmp_path, registry)
    assert f"image {registry}/library/python:3.11 (BASE) is not pinned by digest" in loose(env)
    done = pin(env)
    assert done.returncode == 0, done.stderr
    digest = hashlib.sha256(manifest("library/python")).hexdigest()
    lines = env.read_text().splitlines()
    assert lines[0] == "FERNET_KEY=a=b"
    assert f"BASE={registry}/library/python:3.11@sha256:{digest}" in lines
    assert len(lines) == 4
    assert env.stat().st_mode & 0o777 == 0o600
    assert loose(env).strip() == ""
    assert pin(env).stdout.count("(unchanged)") == 3


def test_no_image_is_pinned_when_one_is_not_found(tmp_path, registry) -> None:
    env = env_of(tmp_path, registry, beam="apache/beam:1")
    before = env.read_text()
    done = pin(env)
    assert done.returncode == 1
    assert done.stderr == (
        f"nothing is pinned: {registry} refuses {registry}/apache/beam:1: HTTP Error 404: Not Found"
        " → check whether the image is private\n"
    )
    assert env.read_text() == before


def test_a_wrong_digest_or_unreachable_registry_is_reported(tmp_path, registry) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Liar", (Registry,), {"lies": True})) as liar:
        threading.Thread(target=liar.serve_forever, args=(0.05,), daemon=True).start()
        done = pin(env_of(tmp_path, f"127.0.0.1:{liar.server_port}"))
        liar.shutdown()
    assert done.returncode == 1
    assert "but its content has sha256:" in done.stderr
    done = pin(env_of(tmp_path, "127.0.0.1:9"))
    assert done.returncode == 1
    assert "cannot be reached" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_unpinned_default_images_of_the_dockerfiles_are_reported(tmp_path) -> None:
    message = loose(tmp_path / "missing")
    for name in ("(BASE)", "(DEBIAN)", "(BEAM)"):
        assert name in message
