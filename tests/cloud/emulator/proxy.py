"""A TCP proxy on loopback that can go down, hang or become slow."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Literal

from nightbid.free_ports import free_ports


class Wire:
    """Forwards connections to a service.

    Args:
        port: Port of the service on loopback; 0 if there is no service.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._state: Literal["up", "slow", "hang"] = "up"
        self._delay = 0.0
        self._open: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        # Also free while the proxy is down.
        (self.port,) = free_ports()
        self.up()

    def up(self) -> None:
        """Accept connections and forward data without delay."""
        self._state = "up"
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
            threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()

    def down(self) -> None:
        """Close every connection and refuse new ones."""
        if self._listener is not None:
            # Without this call, the accepting thread would keep the port.
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for connection in list(self._open):
            self._close(connection)

    def slow(self, seconds: float = 0.5) -> None:
        """Forward each piece of data this much later."""
        self._state, self._delay = "slow", seconds

    def hang(self) -> None:
        """Accept connections but forward nothing."""
        self._state = "hang"

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                caller, _ = listener.accept()
                self._open.add(caller)
            except OSError:
                return
            if not self._to:
                continue
            try:
                service = socket.create_connection(("127.0.0.1", self._to), timeout=60)
            except OSError:
                self._close(caller)
                continue
            service.settimeout(None)
            self._open.add(service)
            for pair in ((caller, service), (service, caller)):
                threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, to: socket.socket) -> None:
        try:
            while piece := source.recv(1 << 16):
                if self._state == "slow":
                    time.sleep(self._delay)
                while self._state == "hang":
                    time.sleep(0.1)
                to.sendall(piece)
        except OSError:
            pass
        finally:
            self._close(source)
            self._close(to)

    def _close(self, end: socket.socket) -> None:
        self._open.discard(end)
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
