"""Page of a stage's output: rows, metrics, inputs and files of its manifest."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nightbid.night.manifest import Manifest
from nightbid.report.links import Links
from nightbid.report.pages import document, render

LONGEST = 2000
"""Maximum length of a metric's text, in characters; longer lists are in the files."""


def output_document(manifest: Manifest, links: Links, pipelines: Sequence[str]) -> str:
    """Make the page.

    Args:
        manifest: Manifest of the output.
        links: Link targets.
        pipelines: Names of pipelines in the navigation.
    """
    context = {
        "manifest": manifest,
        "figures": list(_figures(manifest.metrics)),
        "size": sum(file.size for file in manifest.files),
        "links": links,
    }
    body = render("output.html", context)
    title = f"{manifest.stage} of {manifest.run_id}"
    return document(title, body, links=links, pipelines=list(pipelines))


def _figures(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in metrics.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        yield name, text if len(text) <= LONGEST else f"{text[:LONGEST]} …"
