"""What the emulators and fakes that speak gRPC share: their handlers, a server, and faults."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import empty_pb2

Method = tuple[Any, Any, Callable[[Any, Any], Any]]
"""Class of the request, class of the response (None: an empty one), and the function."""


@dataclass(frozen=True)
class Fault:
    """An error response, or a response that comes late."""

    code: grpc.StatusCode | None
    detail: str = ""
    delay: float = 0.0

    def play(self, context: Any) -> None:
        """Wait, and end the call if the fault is an error."""
        time.sleep(self.delay)
        if self.code is not None:
            context.abort(self.code, self.detail)


def handlers(service: str, methods: Mapping[str, Method]) -> Any:
    """Return the handlers of a service.

    Args:
        service: Full name of the service.
        methods: Name of a method → how it is answered.
    """
    return grpc.method_handlers_generic_handler(
        service,
        {
            name: grpc.unary_unary_rpc_method_handler(
                function,
                request_deserializer=request.deserialize,
                response_serializer=answer.serialize
                if answer
                else empty_pb2.Empty.SerializeToString,
            )
            for name, (request, answer, function) in methods.items()
        },
    )


@contextmanager
def listening(*services: Any) -> Iterator[str]:
    """Serve on a free port of the loopback interface; yields its address, `host:port`."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    server.add_generic_rpc_handlers(services)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
