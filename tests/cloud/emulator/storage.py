"""A Cloud Storage emulator with preconditions, resumable and multipart uploads, ranges, batches.

It keeps objects in memory. `python storage.py PORT BUCKET…` starts it from the shell.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import sys
import threading
import time
import uuid
from dataclasses import dataclass, field
from email.parser import BytesParser
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, quote, unquote, urlsplit

import google_crc32c

if __package__ in (None, ""):
    sys.path.append(str(Path(__file__).parents[1]))
from emulator.serve import Answer, Refused, Served, refusal

API = r"(?:/(?P<face>upload|download))?/storage/v1"
OBJECT = re.compile(API + r"/b/(?P<bucket>[^/]+)/o/(?P<name>[^/]+)$")
OBJECTS = re.compile(API + r"/b/(?P<bucket>[^/]+)/o/?$")
BUCKET = re.compile(API + r"/b(?:/(?P<bucket>[^/]+))?/?$")
COPY = re.compile(
    API + r"/b/(?P<bucket>[^/]+)/o/(?P<name>[^/]+)/(?:rewriteTo|copyTo)"
    r"/b/(?P<to_bucket>[^/]+)/o/(?P<to_name>[^/]+)$"
)
COMPOSE = re.compile(API + r"/b/(?P<bucket>[^/]+)/o/(?P<name>[^/]+)/compose$")
PAGE = 1000


@dataclass
class Thing:
    """One object of a bucket."""

    data: bytes
    generation: int
    content_type: str = "application/octet-stream"
    metadata: dict[str, str] = field(default_factory=dict)
    created: str = ""

    @property
    def crc32c(self) -> str:
        return base64.b64encode(google_crc32c.Checksum(self.data).digest()).decode()

    @property
    def md5(self) -> str:
        return base64.b64encode(hashlib.md5(self.data).digest()).decode()


class Storage(Served):
    """The emulated service, which handles every request under one lock."""

    def __init__(self, port: int = 0, host: str = "127.0.0.1") -> None:
        super().__init__(port, name=host, host=host)
        self.buckets: dict[str, dict[str, Thing]] = {}
        self.spoiled: list[tuple[Literal["sent", "received"], str]] = []
        """Suffixes of object names whose bytes are corrupted in transit, once each."""
        self._sessions: dict[str, dict[str, Any]] = {}
        self._generation = int(time.time() * 1e6)

    def route(self, method: str, url: str, headers: Any, body: bytes) -> Answer:
        parts = urlsplit(url)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        if parts.path.startswith("/batch"):
            return self._batch(headers, body)
        if match := COPY.match(parts.path):
            return self._copy(*(unquote(match[g]) for g in
                                ("bucket", "name", "to_bucket", "to_name")), query)  # fmt: skip
        if match := COMPOSE.match(parts.path):
            return self._compose(unquote(match["bucket"]), unquote(match["name"]), query, body)
        if match := OBJECT.match(parts.path):
            bucket, name = unquote(match["bucket"]), unquote(match["name"])
            if method == "GET":
                media = query.get("alt") == "media" or match["face"] == "download"
                return self._get(bucket, name, query, headers, media)
            if method == "DELETE":
                self._check(bucket, name, query, missing=404)
                del self._bucket(bucket)[name]
                return Answer(204)
            if method in ("PATCH", "PUT"):
                thing = self._thing(bucket, name)
                thing.metadata.update(json.loads(body or b"{}").get("metadata") or {})
                return Answer.json(self._resource(bucket, name))
        if match := OBJECTS.match(parts.path):
            bucket = unquote(match["bucket"])
            if match["face"] == "upload":
                return self._upload(method, bucket, query, headers, body)
            if method == "GET":
                return self._list(bucket, query)
        if match := BUCKET.match(parts.path):
            if method == "POST":
                name = json.loads(body)["name"]
                self.buckets.setdefault(name, {})
                return Answer.json({"kind": "storage#bucket", "name": name})
            bucket = unquote(match["bucket"] or "")
            self._bucket(bucket)
            return Answer.json({"kind": "storage#bucket", "name": bucket, "location": "US"})
        raise Refused(501, f"this emulator does not know {method} {url}")

    def _bucket(self, name: str) -> dict[str, Thing]:
        if name not in self.buckets:
            raise Refused(404, f"no bucket {name}")
        return self.buckets[name]

    def _thing(self, bucket: str, name: str) -> Thing:
        thing = self._bucket(bucket).get(name)
        if thing is None:
            raise Refused(404, f"No such object: {bucket}/{name}")
        return thing

    def _check(self, bucket: str, name: str, query: dict[str, str], missing: int = 0) -> None:
        """Check the preconditions, then that the object exists if it must."""
        thing = self._bucket(bucket).get(name)
        generation = thing.generation if thing else 0
        wanted = query.get("ifGenerationMatch")
        unwanted = query.get("ifGenerationNotMatch")
        if (wanted is not None and int(wanted) != generation) or (
            unwanted is not None and int(unwanted) == generation
        ):
            raise Refused(412, f"generation of {name} is {generation}")
        if thing is None and missing:
            raise Refused(missing, f"No such object: {bucket}/{name}")
        exact = query.get("generation")
        if exact is not None and thing is not None and int(exact) != generation:
            raise Refused(404, f"No such generation of {bucket}/{name}")

    def _on_its_way(self, way: Literal["sent", "received"], name: str, data: bytes) -> bytes:
        for fault in self.spoiled:
            if fault[0] == way and name.endswith(fault[1]):
                self.spoiled.remove(fault)
                return bytes([data[0] ^ 1]) + data[1:]
        return data

    def _put(
        self, bucket: str, name: str, query: dict[str, str], data: bytes, meta: dict[str, Any]
    ) -> Answer:
        self._check(bucket, name, query)
        data = self._on_its_way("received", name, data)
        self._generation += 1
        thing = Thing(
            data,
            self._generation,
            str(meta.get("contentType") or "application/octet-stream"),
            dict(meta.get("metadata") or {}),
            time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime()),
        )
        for name_, value in (("crc32c", thing.crc32c), ("md5Hash", thing.md5)):
            if meta.get(name_) not in (None, value):
                raise Refused(400, f"Provided {name_} {meta[name_]} does not match {value}")
        self._bucket(bucket)[name] = thing
        return Answer.json(self._resource(bucket, name))

    def _resource(self, bucket: str, name: str) -> dict[str, Any]:
        thing = self._thing(bucket, name)
        link = f"{self.endpoint}/storage/v1/b/{bucket}/o/{quote(name, safe='')}"
        return {
            "kind": "storage#object",
            "id": f"{bucket}/{name}/{thing.generation}",
            "name": name,
            "bucket": bucket,
            "generation": str(thing.generation),
            "metageneration": "1",
            "contentType": thing.content_type,
            "size": str(len(thing.data)),
            "crc32c": thing.crc32c,
            "md5Hash": thing.md5,
            "etag": str(thing.generation),
            "storageClass": "STANDARD",
            "timeCreated": thing.created,
            "updated": thing.created,
            "metadata": thing.metadata,
            "selfLink": link,
            "mediaLink": f"{self.endpoint}/download/storage/v1/b/{bucket}/o/"
            f"{quote(name, safe='')}?generation={thing.generation}&alt=media",
        }

    def _get(
        self, bucket: str, name: str, query: dict[str, str], headers: Any, media: bool
    ) -> Answer:
        self._check(bucket, name, query, missing=404)
        thing = self._thing(bucket, name)
        if not media:
            return Answer.json(self._resource(bucket, name))
        response_headers = {
            "Content-Type": thing.content_type,
            "X-Goog-Hash": f"crc32c={thing.crc32c},md5={thing.md5}",
            "X-Goog-Generation": str(thing.generation),
            "X-Goog-Stored-Content-Length": str(len(thing.data)),
        }
        span = re.match(r"bytes=(\d*)-(\d*)$", headers.get("Range") or "")
        if not span or not thing.data:
            return Answer(200, self._on_its_way("sent", name, thing.data), response_headers)
        size = len(thing.data)
        first = int(span[1]) if span[1] else max(0, size - int(span[2]))
        last = min(int(span[2]) if span[1] and span[2] else size - 1, size - 1)
        if first >= size:
            raise Refused(416, "range not satisfiable")
        response_headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        return Answer(
            206, self._on_its_way("sent", name, thing.data[first : last + 1]), response_headers
        )

    def _list(self, bucket: str, query: dict[str, str]) -> Answer:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        names, folders = [], set()
        for name in sorted(self._bucket(bucket)):
            if not name.startswith(prefix) or name < query.get("startOffset", ""):
                continue
            cut = name.find(delimiter, len(prefix)) if delimiter else -1
            if cut >= 0:
                folders.add(name[: cut + len(delimiter)])
            else:
                names.append(name)
        everything = sorted([*names, *folders])
        start = int(query.get("pageToken") or 0)
        size = int(query.get("maxResults") or PAGE)
        page = everything[start : start + size]
        listing: dict[str, Any] = {
            "kind": "storage#objects",
            "items": [self._resource(bucket, name) for name in page if name not in folders],
            "prefixes": [name for name in page if name in folders],
        }
        if start + size < len(everything):
            listing["nextPageToken"] = str(start + size)
        return Answer.json(listing)

    def _upload(
        self, method: str, bucket: str, query: dict[str, str], headers: Any, body: bytes
    ) -> Answer:
        kind = query.get("uploadType")
        if kind == "multipart":
            meta, data = _two_parts(headers["Content-Type"], body)
            return self._put(bucket, str(meta.get("name") or query.get("name")), query, data, meta)
        if kind == "media":
            meta = {"contentType": headers.get("Content-Type")}
            return self._put(bucket, query["name"], query, body, meta)
        if "upload_id" not in query:
            meta = json.loads(body or b"{}")
            name = str(meta.get("name") or query.get("name"))
            self._check(bucket, name, query)
            meta.setdefault("contentType", headers.get("X-Upload-Content-Type"))
            key = uuid.uuid4().hex
            self._sessions[key] = {"name": name, "meta": meta, "query": query, "data": b""}
            where = (
                f"{self.endpoint}/upload/storage/v1/b/{bucket}/o?uploadType=resumable"
                f"&name={quote(name, safe='')}&upload_id={key}"
            )
            return Answer(200, b"", {"Location": where, "X-GUploader-UploadID": key})
        return self._resume(method, bucket, query["upload_id"], headers, body)

    def _resume(self, method: str, bucket: str, key: str, headers: Any, body: bytes) -> Answer:
        session = self._sessions.get(key)
        if session is None:
            raise Refused(410, "this upload session is gone")
        if method == "DELETE":
            del self._sessions[key]
            return Answer(499)
        span = re.match(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)$", headers.get("Content-Range") or "")
        data: bytes = session["data"]
        total = None
        if span:
            total = None if span[3] == "*" else int(span[3])
            if span[1] is not None and int(span[1]) <= len(data):
                data = data[: int(span[1])] + body
        else:
            data, total = body, len(body)
        session["data"] = data
        if total is None or len(data) < total:
            return Answer(308, b"", {"Range": f"bytes=0-{len(data) - 1}"} if data else {})
        del self._sessions[key]
        return self._put(bucket, session["name"], session["query"], data, session["meta"])

    def _copy(
        self, bucket: str, name: str, to_bucket: str, to_name: str, query: dict[str, str]
    ) -> Answer:
        thing = self._thing(bucket, name)
        meta = {"contentType": thing.content_type, "metadata": thing.metadata}
        resource = json.loads(self._put(to_bucket, to_name, query, thing.data, meta).body)
        size = str(len(thing.data))
        return Answer.json(
            {"kind": "storage#rewriteResponse", "done": True, "resource": resource,
             "objectSize": size, "totalBytesRewritten": size, **resource}
        )  # fmt: skip

    def _compose(self, bucket: str, name: str, query: dict[str, str], body: bytes) -> Answer:
        wanted = json.loads(body)
        data = b"".join(self._thing(bucket, e["name"]).data for e in wanted["sourceObjects"])
        return self._put(bucket, name, query, data, wanted.get("destination") or {})

    def _batch(self, headers: Any, body: bytes) -> Answer:
        whole = b"Content-Type: " + headers["Content-Type"].encode() + b"\r\n\r\n" + body
        out = []
        for part in BytesParser().parsebytes(whole).get_payload():
            text = part.get_payload(decode=True) or b""
            head, _, inner = text.replace(b"\r\n", b"\n").partition(b"\n\n")
            line, *rest = head.decode().strip().splitlines()
            method, url, _ = line.split()
            fields = {k.strip().title(): v.strip() for k, _, v in (e.partition(":") for e in rest)}
            try:
                path = urlsplit(url)
                target = path.path + (f"?{path.query}" if path.query else "")
                answer = self.route(method, target, fields, inner)
            except Refused as refused:
                answer = refusal(refused)
            mark = (part.get("Content-ID") or "<0>").replace("<", "<response-")
            out.append(
                f"--batch\r\nContent-Type: application/http\r\nContent-ID: {mark}\r\n\r\n"
                f"HTTP/1.1 {answer.status} \r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(answer.body)}\r\n\r\n".encode()
                + answer.body + b"\r\n"
            )  # fmt: skip
        return Answer(
            200, b"".join(out) + b"--batch--", {"Content-Type": "multipart/mixed; boundary=batch"}
        )


def _two_parts(kind: str, body: bytes) -> tuple[dict[str, Any], bytes]:
    """Split a multipart/related upload into metadata and content, whose bytes stay unchanged."""
    match = re.search(r'boundary="?([^";]+)"?', kind)
    assert match
    line = b"--" + match[1].encode()
    _, first, second = body.split(line, 2)
    meta = re.split(rb"\r?\n\r?\n", first, maxsplit=1)[1]
    inner = re.split(rb"\r?\n\r?\n", second, maxsplit=1)
    head = inner[0].decode()
    data = inner[1][: inner[1].rindex(line)]
    data = data[:-2] if data.endswith(b"\r\n") else data[:-1]
    resource = json.loads(meta)
    if kind := re.search(r"(?i)content-type:\s*(\S+)", head):
        resource.setdefault("contentType", kind[1])
    return resource, data


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int, nargs="?", default=0)
    parser.add_argument("buckets", nargs="*")
    parser.add_argument("--host", default="127.0.0.1")
    asked = parser.parse_args()
    served = Storage(asked.port, asked.host)
    for bucket in asked.buckets:
        served.buckets[bucket] = {}
    print(served.endpoint, flush=True)  # noqa: T201
    served.start()
    threading.Event().wait()
