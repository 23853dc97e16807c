"""Reads the Open Bandit small logs: real fashion impressions with position and propensity.

Saito et al., Open Bandit Dataset and Pipeline (NeurIPS 2021 datasets track), CC BY 4.0. The files
are read from the source distribution of the PyPI package obp, which is never installed or run.
The logs have no user ids: a user is a combination of the four anonymized user features.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from datetime import date
from functools import cached_property
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv

from nightbid.config.sources import ObdSource
from nightbid.data.source_schema import SourceSchema
from nightbid.errors import CorruptDataError, MissingDataError
from nightbid.storage.files import write_atomically

VERSION = "0.5.7"
ARCHIVE = f"obp-{VERSION}.tar.gz"
DIGEST = "3060d67fedfcfadf1e7a6f2608987f74412b5eb74d2c567edeb147595c68f2a0"
PUBLIC_INDEX = "https://pypi.org/simple"
LIMIT_BYTES = 200_000_000
TIMEOUT_SECONDS = 60
MEANING = SourceSchema(outcomes=frozenset({"click", "propensity_score"}))


class ObdLogs:
    """Logs of one campaign under one policy: 10,000 impressions of one week."""

    meaning = MEANING

    def __init__(self, block: ObdSource, cache: Path) -> None:
        self._block = block
        self._archive = fetch(cache)

    def days(self) -> tuple[date, ...] | None:
        """All days of the log."""
        return tuple(sorted(pc.unique(self._day).to_pylist()))

    def fingerprint(self, days: tuple[date, ...]) -> str:
        """Digest of the archive, the same for all days."""
        return DIGEST

    def identity(self, day: date, digest: Callable[[Path], str]) -> dict[str, str]:
        """Digest of the archive."""
        return {"logs": DIGEST[:32]}

    def batches(self, day: date) -> Iterator[pa.RecordBatch]:
        """Yield the rows of one day, joined with the items' features."""
        rows = self._log.filter(pc.equal(self._day, pa.scalar(day)))
        if not len(rows):
            known = self.days() or ()
            raise MissingDataError(
                f"there are no rows of {day}",
                where=f"obd {self._block.policy}/{self._block.campaign}",
                hint=f"the log goes from {known[0]} to {known[-1]}",
            )
        yield from rows.combine_chunks().to_batches()

    @cached_property
    def _day(self) -> pa.ChunkedArray:
        return self._log["time"].cast(pa.date32())

    @cached_property
    def _log(self) -> pa.Table:
        name, policy = self._block.campaign, self._block.policy
        log = self._member(f"{policy}/{name}/{name}.csv")
        items = self._member(f"{policy}/{name}/item_context.csv")
        log = log.rename_columns(["row", *log.column_names[1:]])
        place = pc.index_in(log["item_id"], items["item_id"])
        for column in items.column_names:
            if column.startswith("item_feature"):
                log = log.append_column(column, items[column].take(place))
        parts = [log[column] for column in log.column_names if column.startswith("user_feature")]
        time = log["timestamp"].cast(pa.timestamp("us", "UTC"))
        log = log.append_column("time", time)
        log = log.append_column("user_id", pc.binary_join_element_wise(*parts, "-"))
        log = log.append_column("impression_id", pa.array(np.arange(len(log), dtype=np.int64)))
        return log.drop_columns(["row", "timestamp"]).rename_columns(
            [c.replace("-", "_") for c in log.column_names if c not in ("row", "timestamp")]
        )

    def _member(self, name: str) -> pa.Table:
        # Read directly from the archive, which is never unpacked.
        with tarfile.open(self._archive) as archive:
            stream = archive.extractfile(f"obp-{VERSION}/obp/dataset/obd/{name}")
            assert stream is not None
            return pcsv.read_csv(io.BytesIO(stream.read()))


def fetch(cache: Path) -> Path:
    """Download the archive once; its digest is checked on every use.

    Raises:
        MissingDataError: No package index can be reached, or none has the file.
        CorruptDataError: The downloaded file has another digest.
    """
    path = cache / "obd" / ARCHIVE
    if path.exists() and sha256(path.read_bytes()).hexdigest() == DIGEST:
        return path
    problems = []
    for index in _indexes():
        try:
            content = _download(index)
        except (urllib.error.URLError, OSError, ValueError) as error:
            problems.append(f"{index} ({getattr(error, 'reason', error)})")
            continue
        digest = sha256(content).hexdigest()
        if digest != DIGEST:
            raise CorruptDataError(
                f"{ARCHIVE} has the digest {digest[:16]}…, expected {DIGEST[:16]}…",
                where=index,
                hint="the index serves another file: use one that mirrors PyPI unchanged",
            )
        write_atomically(path, content)
        return path
    raise MissingDataError(
        f"{ARCHIVE} could not be downloaded from {', '.join(problems)}",
        where="source obd",
        hint=f"connect to a package index, or put the file at {path}",
    )


def _indexes() -> list[str]:
    """Package indexes to try: those that pip and uv are configured with, then PyPI."""
    indexes = [os.environ.get("PIP_INDEX_URL", ""), os.environ.get("UV_DEFAULT_INDEX", "")]
    configured = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"],
        capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False,
    )  # fmt: skip
    indexes += [configured.stdout.strip(), PUBLIC_INDEX]
    return list(dict.fromkeys(index.rstrip("/") for index in indexes if index.startswith("http")))


class _ArchiveLinks(HTMLParser):
    """Finds the address of the archive on a page of the simple index (PEP 503)."""

    address = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record the address if the tag is a link to the archive."""
        target = dict(attrs).get("href") or ""
        if tag == "a" and ARCHIVE in target:
            self.address = target.split("#")[0]


def _download(index: str) -> bytes:
    page = f"{index}/obp/"
    links = _ArchiveLinks()
    links.feed(_get(page, 10_000_000).decode("utf-8", "replace"))
    if not links.address:
        raise ValueError(f"no {ARCHIVE} on {page}")
    return _get(urllib.parse.urljoin(page, links.address), LIMIT_BYTES)


def _get(address: str, limit: int) -> bytes:
    if not address.startswith(("https://", "http://")):
        raise ValueError(f"{address!r} is not a web address")
    with urllib.request.urlopen(address, timeout=TIMEOUT_SECONDS) as reply:  # noqa: S310
        content: bytes = reply.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"{address} is larger than {limit:,} bytes")
    return content
