"""Writes the report of a run: a self-contained HTML file to mail or archive."""

from __future__ import annotations

from upath import UPath

from nightbid.config.settings import Settings
from nightbid.night.record import RunRecord
from nightbid.report.pages import run_document
from nightbid.report.summaries import Summaries
from nightbid.storage.files import write_atomically


def write_report(run: RunRecord) -> UPath:
    """Write `report.html` and the run's summary next to its records, replacing older ones.

    Returns:
        Path of the report.
    """
    path = run.folder / "report.html"
    summaries = Summaries(run.workspace, Settings().cache)
    summaries.keep(run)
    nights = summaries.of(run.head.pipeline)
    write_atomically(path, run_document(run, nights=nights))
    return path
