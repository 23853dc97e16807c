"""Dates on the command line: of days, and of hours where logs are partitioned by hours."""

from __future__ import annotations

from datetime import date
from typing import Any

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


def date_option(text: str) -> Any:
    """Make the option `--date`, which takes a day, or an hour of logs.

    Args:
        text: what it is for, as help shows it.
    """
    return typer.Option("--date", parser=read_date, metavar=FORM, help=text)
