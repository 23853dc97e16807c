"""What a stage wrote, as a page: rows, figures, inputs and files of its manifest."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nightbid.night.manifest import Manifest
from nightbid.report.links import Links
from nightbid.report.pages import document, render

LONGEST = 2000
"""Letters of one figure; lists of hundreds of values belong in the files."""


def output_document(manifest: Manifest, links: Links, pipelines: Sequence[str]) -> str:
    """Make the page.

    Args:
        manifest: Of the output.
        links: Where links lead.
        pipelines: Named in the navigation.
    """
    context = {
        "manifest": manifest,
        "figures": list(_figures(manifest.metrics)),
        "size": sum(each.size for each in manifest.files),
        "links": links,
    }
    body = render("output.html", context)
    title = f"{manifest.stage} of {manifest.run_id}"
    return document(title, body, links=links, pipelines=list(pipelines))


def _figures(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in metrics.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        yield name, text if len(text) <= LONGEST else f"{text[:LONGEST]} …"
