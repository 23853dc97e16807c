"""The base of the emulators: a JSON service on a local socket, with faults on demand.

Each fault occurs once: `Served.fail` sets which requests get which status.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote


class Refused(Exception):
    """A request that the service answers with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Fault:
    method: str
    part: str
    status: int
    left: int
    after: bool
    """Whether the request succeeds and only its response is lost."""


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, value: Any, **headers: str) -> Answer:
        kind = {"Content-Type": "application/json; charset=UTF-8"}
        return cls(200, json.dumps(value).encode(), {**kind, **headers})


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: Any) -> None:
        """Ignore clients that close their connection."""


class Served:
    """A service that handles one request at a time.

    Args:
        port: Port to listen on; 0 picks a free one.
        name: Host name in `endpoint`.
    """

    def __init__(self, port: int = 0, name: str = "127.0.0.1", host: str = "127.0.0.1") -> None:
        self.requests: list[tuple[str, str]] = []
        """Method and path of every request, in order."""
        self._faults: list[Fault] = []
        self._lock = threading.RLock()
        self._server = _Server((host, port), _handler(self))
        self.endpoint = f"http://{name}:{self._server.server_address[1]}"

    def start(self) -> Any:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fail(
        self, method: str, part: str, status: int, times: int = 1, *, after: bool = False
    ) -> None:
        """Refuse the next requests whose path or query contains `part`."""
        self._faults.append(Fault(method, part, status, times, after))

    def forgive(self) -> None:
        """Remove all faults."""
        self._faults.clear()

    def route(self, method: str, url: str, headers: Any, body: bytes) -> Answer:
        """Handle a request; a `Refused` becomes an error response."""
        raise NotImplementedError

    def answer(self, method: str, url: str, headers: Any, body: bytes) -> Answer:
        with self._lock:
            self.requests.append((method, unquote(url)))
            fault = self._fault(method, unquote(url))
            if fault and not fault.after:
                return refusal(Refused(fault.status, "as told"))
            try:
                answer = self.route(method, url, headers, body)
            except Refused as refused:
                return refusal(refused)
            return refusal(Refused(fault.status, "answer lost")) if fault else answer

    def _fault(self, method: str, url: str) -> Fault | None:
        for fault in self._faults:
            if fault.left and fault.method == method and fault.part in url:
                fault.left -= 1
                return fault
        return None


def refusal(refused: Refused) -> Answer:
    error = {"code": refused.status, "message": str(refused), "errors": []}
    body = json.dumps({"error": error}).encode()
    return Answer(refused.status, body, {"Content-Type": "application/json"})


def _handler(served: Served) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Send each response as one packet: delayed acknowledgments would cost 40 ms each.
        wbufsize = 1 << 16
        disable_nagle_algorithm = True

        def _serve(self) -> None:
            if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
                body = b"".join(iter(self._chunk, b""))
            else:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer = served.answer(self.command, self.path, self.headers, body)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if answer.status != 204:
                self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if answer.status != 204:
                self.wfile.write(answer.body)

        def _chunk(self) -> bytes:
            size = int(self.rfile.readline().split(b";")[0], 16)
            data = self.rfile.read(size)
            self.rfile.readline()
            return data

        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _serve  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
