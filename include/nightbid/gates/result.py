"""Reads and verifies the result of a gate."""

from __future__ import annotations

import json
import logging
from typing import Any

from upath import UPath

from nightbid.errors import CorruptDataError
from nightbid.storage.workspace import RERUN, fetch

log = logging.getLogger(__name__)
FILE = "gate.json"
NEEDED = frozenset({"night", "findings"})


def read_result(folder: UPath) -> dict[str, Any] | None:
    """Read the result of a gate.

    Args:
        folder: Output folder of the gate.

    Returns:
        Content of the result; None if it was deleted.

    Raises:
        CorruptDataError: The result is not as the gate wrote it.
    """
    try:
        content = (folder / FILE).read_bytes()
        if (folder / "manifest.json").exists():
            fetch(folder, (FILE,))
    except FileNotFoundError:
        return None
    try:
        result = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CorruptDataError(str(error), where=str(folder / FILE), hint=RERUN) from error
    if not isinstance(result, dict) or not result.keys() >= NEEDED:
        raise CorruptDataError("not the result of a gate", where=str(folder / FILE), hint=RERUN)
    return result


def known_result(folder: UPath) -> dict[str, Any] | None:
    """Read the result of an earlier night's gate; if it is damaged, warn and return None."""
    try:
        return read_result(folder)
    except CorruptDataError as error:
        log.warning("left out: %s", error)
        return None
