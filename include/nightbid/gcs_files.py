"""Cloud Storage as the file system behind every gs:// path: what it refuses is one line."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from aiohttp import ClientError
from gcsfs import GCSFileSystem
from gcsfs.retry import HttpError
from google.auth.exceptions import GoogleAuthError

from nightbid.errors import WorkspaceError

ROLES = "check bucket, network and the account's roles (docs/cloud.md); a rerun is safe"


class Refused(WorkspaceError, OSError):
    """The service refuses, or is out of reach; also what a file system may raise."""


class Files(GCSFileSystem):  # type: ignore[misc]
    """gcsfs, which tries again by itself what is worth it."""

    async def _call(self, method: str, path: str, *args: Any, **options: Any) -> Any:
        try:
            return await super()._call(method, path, *args, **options)
        except (FileNotFoundError, FileExistsError):
            raise
        except (OSError, ValueError, HttpError, ClientError, GoogleAuthError) as error:
            text = " ".join(str(error).split())[:200] or type(error).__name__
            where = f"gs://{'/'.join(args)}" if args else unquote(path)
            raise Refused(text, where=where, hint=ROLES) from error

    async def _isdir(self, path: str) -> bool:
        # Theirs takes what is refused for no folder.
        try:
            return bool((await self._info(path))["type"] == "directory")
        except FileNotFoundError:
            return False
