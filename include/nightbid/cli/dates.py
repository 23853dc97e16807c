"""Dates on the command line: days, or hours if the logs are partitioned by hours."""

from __future__ import annotations

from datetime import date
from typing import Any

import typer

from nightbid.partitions import partition_of

FORM = "YYYY-MM-DD[THH]"


def read_date(text: str) -> date:
    """Parse a date from the command line.

    Raises:
        BadParameter: The text is not a date.
    """
    try:
        return partition_of(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def date_option(text: str) -> Any:
    """Make the option `--date`, which takes a day or an hour of logs.

    Args:
        text: Help text of the option.
    """
    return typer.Option("--date", parser=read_date, metavar=FORM, help=text)
