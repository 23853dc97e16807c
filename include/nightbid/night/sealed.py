"""Records with a checksum, so that damage is always detected.

`seal` writes a record as JSON with the additional key `checksum`; every `Sealed` model checks it
and removes it when it is parsed. Records of older versions without a checksum are accepted.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from nightbid.errors import CorruptDataError

CHECKSUM = "checksum"
Record = TypeVar("Record", bound=BaseModel)


def checksum_of(tree: dict[str, Any]) -> str:
    """Digest of a JSON object without its `checksum`: 32 hexadecimal digits."""
    content = {name: value for name, value in tree.items() if name != CHECKSUM}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Sealed(BaseModel):
    """Base class of records that `seal` writes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _check(cls, data: Any) -> Any:
        if not isinstance(data, dict) or CHECKSUM not in data:
            return data
        if data[CHECKSUM] != checksum_of(data):
            raise ValueError("its checksum does not match its content: the file was changed")
        return {name: value for name, value in data.items() if name != CHECKSUM}


def seal(record: BaseModel) -> str:
    """Write a record as JSON with its checksum."""
    # Through JSON, so that NaN is null on both sides.
    tree = json.loads(record.model_dump_json())
    return json.dumps({**tree, CHECKSUM: checksum_of(tree)}, indent=1)


def unseal(kind: type[Record], text: str | bytes, where: object, hint: str) -> Record:
    """Parse a record.

    Args:
        kind: Model of the record.
        text: Content of the file.
        where: The file, for error messages.
        hint: How to recover from a damaged record, for error messages.

    Raises:
        CorruptDataError: The record is damaged.
    """
    try:
        return kind.model_validate_json(text)
    except (ValidationError, UnicodeDecodeError) as error:
        raise CorruptDataError(
            f"not a readable {kind.__name__}: {first_fault(error)}", where=str(where), hint=hint
        ) from error


def first_fault(error: Exception) -> str:
    """The first fault of a failed validation, in one line."""
    if isinstance(error, ValidationError):
        fault = error.errors()[0]
        key = ".".join(str(part) for part in fault["loc"])
        return f"{key}: {fault['msg']}" if key else str(fault["msg"])
    return " ".join(str(error).split())
