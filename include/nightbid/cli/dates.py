"""Dates on the command line: of days, and of hours where logs are partitioned by hours."""

from __future__ import annotations

from datetime import date

import typer

from nightbid.partitions import partition_of

FORM = "YYYY-MM-DD[THH]"


def read_date(text: str) -> date:
    """Read what was typed.

    Raises:
        BadParameter: it is no date.
    """
    try:
        return partition_of(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
