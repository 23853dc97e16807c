"""Access control of the scorer: tokens, TLS and a rate limit per client."""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import math
import os
import ssl
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from starlette.types import ASGIApp, Receive, Scope, Send

from nightbid.counts import counted
from nightbid.errors import ConfigError, NightbidError

LOG = logging.getLogger(__name__)
OPEN = frozenset({"/health", "/ready"})
"""Paths without token or rate limit, because load balancers poll them."""
SHORTEST_TOKEN = 16
"""Minimum length of a token in characters."""
BURST_SECONDS = 1.0
"""Maximum burst of an idle client: the number of requests that this many seconds allow."""
SLOTS = 1 << 16
"""Number of rate-limit counters; clients with the same hash share a counter."""
LOOK_SECONDS = 1.0
"""Minimum seconds between two checks of the token file for changes."""
RATES = "rates"


@dataclass(frozen=True)
class Access:
    """Requirements for clients."""

    token_file: str = ""
    """File with one token per line, optionally after a client name; empty: no token is required."""
    requests_per_second: float = 0.0
    """Maximum request rate of one client over all processes; 0 means no limit."""
    certificate: str = ""
    """PEM file with the certificate chain; empty disables TLS."""
    key: str = ""
    """PEM file with the certificate's private key."""

    def check(self, host: str, *, insecure: bool) -> None:
        """Check that the settings work and do not allow access to everybody by accident.

        Args:
            host: Address to listen on.
            insecure: Whether the user chose to serve other machines without tokens.

        Raises:
            ConfigError: A file cannot be read, or other machines can reach the address and no token
                is required.
        """
        if self.token_file:
            Tokens(Path(self.token_file))
        elif not insecure and not _is_loopback(host):
            raise ConfigError(
                f"{host} can be reached from other machines, but no token is required",
                where="serve",
                hint="pass --token-file FILE, or --insecure if a gateway restricts access",
            )
        if bool(self.certificate) != bool(self.key):
            raise ConfigError(
                "a certificate without its key, or a key without a certificate",
                where="serve",
                hint="pass --tls-cert and --tls-key",
            )
        if self.certificate:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.certificate, self.key)
            except OSError as error:  # includes ssl.SSLError
                raise ConfigError(
                    f"cannot use {self.certificate} with {self.key} ({error.strerror or error})",
                    where="--tls-cert",
                    hint="use PEM files of a certificate and its private key",
                ) from error


class Tokens:
    """Tokens from a file, which is read again when it changes.

    Args:
        path: File with a token, or a name and a token, per line; `#` starts a comment.

    Raises:
        ConfigError: The file cannot be read, contains no token, or a token is too short.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._clients: dict[bytes, str] = {}
        self._looked = time.monotonic()
        self._state = self._stat()
        self._read()

    def client(self, authorization: str) -> str | None:
        """Return the name of the client that an `Authorization` header identifies, or None."""
        if time.monotonic() - self._looked > LOOK_SECONDS:
            self._look()
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return None
        return self._clients.get(_digest(token.strip()))

    def _look(self) -> None:
        self._looked = time.monotonic()
        try:
            state = self._stat()
            if state != self._state:
                self._read()
                self._state = state
        except ConfigError as error:
            LOG.warning("the previous tokens stay valid: %s", error)

    def _stat(self) -> tuple[int, ...]:
        try:
            status = self._path.stat()
        except OSError as error:
            raise self._error(error.strerror or str(error)) from error
        return status.st_ino, status.st_size, status.st_mtime_ns

    def _read(self) -> None:
        try:
            lines = self._path.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            fault = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise self._error(str(fault)) from error
        clients = {}
        for number, line in enumerate(lines, 1):
            parts = line.partition("#")[0].split()
            if not parts:
                continue
            if len(parts) > 2:
                raise self._error(f"line {number} has more than a name and a token")
            if len(parts[-1]) < SHORTEST_TOKEN:
                length = counted(len(parts[-1]), "character")
                raise self._error(f"the token of line {number} has {length}")
            clients[_digest(parts[-1])] = parts[0] if len(parts) == 2 else f"line {number}"
        if not clients:
            raise self._error("no token")
        self._clients = clients

    def _error(self, fault: str) -> ConfigError:
        return ConfigError(
            fault,
            where=str(self._path),
            hint=f"write one token of at least {SHORTEST_TOKEN} characters per line,"
            " with the client's name before it: `openssl rand -hex 32`",
        )


class RateLimit:
    """Limits the requests per second of each client, counted over all processes.

    Args:
        path: File that the processes share; created if missing.
        per_second: Maximum number of requests per second of one client.
    """

    def __init__(self, path: Path, per_second: float) -> None:
        self._step = 1 / per_second
        with path.open("ab") as file:
            os.ftruncate(file.fileno(), 8 * SLOTS)
        # Time at which the next request of each client is due, by the monotonic clock that all
        # processes share. If two processes write at once, one request is not counted: harmless.
        self._due = np.memmap(path, np.float64, "r+", shape=(SLOTS,))

    def wait(self, client: str) -> float:
        """Count a request; return 0 if it is admitted, else the seconds until the next attempt."""
        slot = zlib.crc32(client.encode()) % SLOTS
        now = time.monotonic()
        due = max(float(self._due[slot]), now)
        if due - now > BURST_SECONDS:
            return due - now - BURST_SECONDS
        self._due[slot] = due + self._step
        return 0.0


class TokenError(NightbidError):
    """Raised for a request without a valid token."""


class RateError(NightbidError):
    """Raised when a client exceeds its rate limit.

    Args:
        line: Message for the client.
        seconds: Seconds until the client may send its next request.
    """

    def __init__(self, line: str, seconds: float) -> None:
        super().__init__(line, hint="send it again after Retry-After")
        self.seconds = max(1, math.ceil(seconds))


class Admission:
    """Decides which requests are admitted.

    Args:
        access: Requirements for clients.
        folder: Folder that the scorer's processes share.
    """

    def __init__(self, access: Access, folder: Path) -> None:
        self._tokens = Tokens(Path(access.token_file)) if access.token_file else None
        self._limit: RateLimit | None = None
        if access.requests_per_second:
            self._limit = RateLimit(folder / RATES, access.requests_per_second)

    def admit(self, address: str, authorization: bytes) -> None:
        """Admit a request, and count it.

        Args:
            address: IP address of the client; empty if unknown.
            authorization: Value of the `Authorization` header; empty if missing.

        Raises:
            TokenError: The request has no valid token.
            RateError: The client exceeds its rate limit.
        """
        if self._tokens is None and self._limit is None:
            return
        client: str | None = _network(address)
        if self._tokens is not None:
            client = self._tokens.client(authorization.decode("latin-1"))
            if client is None:
                raise TokenError(
                    "no valid token" if authorization else "no token",
                    where="Authorization",
                    hint="send `Authorization: Bearer TOKEN`",
                )
        if self._limit is not None and (seconds := self._limit.wait(client or "")):
            raise RateError(f"{client} exceeds its request rate", seconds)


class Guard:
    """ASGI middleware that rejects requests before their body is read.

    Args:
        app: Application that receives admitted requests.
        admission: Decides which requests are admitted.
        refuse: Function from an error to an ASGI response.
    """

    def __init__(self, app: ASGIApp, *, admission: Admission, refuse: Any) -> None:
        self._app = app
        self._admission = admission
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request, or respond with 401 or 429."""
        if scope["type"] == "http" and scope["path"] not in OPEN:
            address = scope["client"][0] if scope["client"] else ""
            authorization = next(
                (value for name, value in scope["headers"] if name == b"authorization"), b""
            )
            try:
                self._admission.admit(address, authorization)
            except NightbidError as error:
                await self._refuse(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _network(address: str) -> str:
    """Return the address of a client; for IPv6 its /64 network, which one client usually owns."""
    if ":" not in address:
        return address
    return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _digest(token: str) -> bytes:
    # Tokens are compared by digest, so that timing reveals nothing about them.
    return hashlib.sha256(token.encode()).digest()
