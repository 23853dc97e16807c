"""Cloud Storage as the file system for all gs:// paths.

Errors are one line, and the crc32c of objects that are read whole, as all small records are, is
verified.
"""

from __future__ import annotations

import base64
import re
from typing import Any
from urllib.parse import unquote

import google_crc32c
from aiohttp import ClientError
from gcsfs import GCSFileSystem
from gcsfs.retry import HttpError
from google.auth.exceptions import GoogleAuthError

from nightbid.errors import WorkspaceError

ROLES = "check bucket, network and the account's roles (docs/cloud.md); a rerun is safe"


class Refused(WorkspaceError, OSError):
    """The service refused a request or is unreachable; an error that file systems may raise."""


class Files(GCSFileSystem):  # type: ignore[misc]
    """gcsfs, which retries transient errors itself, with one-line errors and verified reads."""

    async def _call(self, method: str, path: str, *args: Any, **options: Any) -> Any:
        try:
            answer = await super()._call(method, path, *args, **options)
            if isinstance(answer, tuple):
                _check(*answer[-2:])
            return answer
        except (FileNotFoundError, FileExistsError):
            raise
        except (OSError, ValueError, HttpError, ClientError, GoogleAuthError) as error:
            text = " ".join(str(error).split())[:200] or type(error).__name__
            where = f"gs://{'/'.join(args)}" if args else _place(path)
            raise Refused(text, where=where, hint=ROLES) from error

    async def _isdir(self, path: str) -> bool:
        # gcsfs would treat a refused request as a missing folder.
        try:
            return bool((await self._info(path))["type"] == "directory")
        except FileNotFoundError:
            return False


def _place(address: str) -> str:
    """Return an object's gs:// path if the address is that of an object."""
    match = re.search("/b/([^/?]+)/o/([^?]+)", address)
    return f"gs://{match[1]}/{unquote(match[2])}" if match else unquote(address)


def _check(headers: Any, content: bytes) -> None:
    """Verify the crc32c of a whole object's bytes; parts of objects have none.

    Raises:
        OSError: The crc32c differs.
    """
    hashes = ",".join(headers.getall("X-Goog-Hash", [])).split(",")
    expected = [value.strip().removeprefix("crc32c=") for value in hashes if "crc32c=" in value]
    size = headers.get("Content-Range", "").rpartition("/")[2] or str(len(content))
    if not expected or size != str(len(content)):
        return
    checksum = base64.b64encode(google_crc32c.value(content).to_bytes(4, "big")).decode()
    if checksum != expected[0]:
        raise OSError(f"the bytes changed on their way: crc32c {checksum}, expected {expected[0]}")
