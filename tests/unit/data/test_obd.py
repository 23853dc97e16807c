"""The Open Bandit logs are downloaded from a package index over a socket and verified."""

from __future__ import annotations

import hashlib
import http.server
import io
import tarfile
import threading
from datetime import date

import pyarrow as pa
import pytest
from nightbid.config.sources import ObdSource
from nightbid.data import obd
from nightbid.data.source import open_source
from nightbid.errors import CorruptDataError, MissingDataError

LOG = """,timestamp,item_id,position,click,propensity_score,user_feature_0,user_feature_1,\
user-item_affinity_0
0,2019-11-24 00:00:08.041011+00:00,1,3,0,0.5,aa,bb,0.0
1,2019-11-24 23:59:59.000000+00:00,0,1,1,0.5,aa,cc,2.0
2,2019-11-25 08:00:00.000000+00:00,1,2,0,0.5,dd,bb,0.0
"""
ITEMS = ",item_id,item_feature_0,item_feature_1\n0,0,-0.5,ee\n1,1,0.7,ff\n"


def archive() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as packed:
        for name, text in (("all/all.csv", LOG), ("all/item_context.csv", ITEMS)):
            entry = tarfile.TarInfo(f"obp-{obd.VERSION}/obp/dataset/obd/random/{name}")
            entry.size = len(text)
            packed.addfile(entry, io.BytesIO(text.encode()))
    return out.getvalue()


@pytest.fixture
def index(monkeypatch):
    """Start a package index on loopback; return its files and the requested paths."""
    files: dict[str, bytes] = {}
    requests: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            content = files.get(self.path)
            self.send_response(200 if content is not None else 404)
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *parts):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}/simple"
    # Only this index is used, whatever the machine's configuration.
    monkeypatch.setenv("PIP_INDEX_URL", address)
    monkeypatch.setenv("UV_DEFAULT_INDEX", address)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(obd, "PUBLIC_INDEX", address)
    yield files, requests
    server.shutdown()
    server.server_close()
    thread.join()


def serve(files, content: bytes) -> None:
    files["/simple/obp/"] = (
        b'<a href="../../files/obp-0.5.6.tar.gz">old</a>'
        + f'<a href="../../files/{obd.ARCHIVE}#sha256=1">new</a>'.encode()
    )
    files[f"/files/{obd.ARCHIVE}"] = content


@pytest.mark.slow
def test_the_archive_is_downloaded_once_and_read(index, tmp_path, monkeypatch):
    files, requests = index
    content = archive()
    monkeypatch.setattr(obd, "DIGEST", hashlib.sha256(content).hexdigest())
    serve(files, content)
    logs = open_source(ObdSource(kind="obd"), tmp_path)
    assert logs.days() == (date(2019, 11, 24), date(2019, 11, 25))
    rows = pa.Table.from_batches(list(logs.batches(date(2019, 11, 24)))).to_pylist()
    assert [row["impression_id"] for row in rows] == [0, 1]
    assert [row["user_id"] for row in rows] == ["aa-bb", "aa-cc"]
    assert [row["item_feature_1"] for row in rows] == ["ff", "ee"]
    assert rows[1]["user_item_affinity_0"] == 2.0
    assert rows[0]["time"].isoformat() == "2019-11-24T00:00:08.041011+00:00"
    assert {"click", "propensity_score"} <= logs.meaning.outcomes
    requests.clear()
    open_source(ObdSource(kind="obd"), tmp_path)
    assert not requests
    with pytest.raises(MissingDataError, match=r"no rows of 2019-12-01.*2019-11-25"):
        list(logs.batches(date(2019, 12, 1)))


def test_a_damaged_archive_is_downloaded_again(index, tmp_path, monkeypatch):
    files, requests = index
    content = archive()
    monkeypatch.setattr(obd, "DIGEST", hashlib.sha256(content).hexdigest())
    serve(files, content)
    path = tmp_path / "obd" / obd.ARCHIVE
    path.parent.mkdir()
    path.write_bytes(content[:100])
    assert obd.fetch(tmp_path) == path
    assert path.read_bytes() == content
    assert requests


def test_an_archive_with_another_digest_is_rejected(index, tmp_path):
    files, _ = index
    serve(files, archive())
    with pytest.raises(CorruptDataError, match=r"has the digest \w+…, expected 3060d67f"):
        obd.fetch(tmp_path)
    assert not list(tmp_path.rglob("*.tar.gz"))


def test_an_index_without_the_archive_is_reported(index, tmp_path):
    _, requests = index
    with pytest.raises(MissingDataError, match=r"127\.0\.0\.1.*put the file at"):
        obd.fetch(tmp_path)
    assert requests == ["/simple/obp/"]
