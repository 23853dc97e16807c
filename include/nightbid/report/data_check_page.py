"""Pages of inspected folders of logs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nightbid.report.links import Links
from nightbid.report.pages import document, render

if TYPE_CHECKING:
    from nightbid.data_check.saved import SavedCheck


def data_check_page(check: SavedCheck, links: Links, pipelines: list[str]) -> str:
    """Make the page of one check.

    Args:
        check: Result of the check.
        links: Link targets.
        pipelines: Names of pipelines in the navigation.
    """
    body = render("data_check.html", {"check": check, "report": check.report, "links": links})
    return document(check.name, body, links=links, pipelines=pipelines)


def data_checks_page(checks: Sequence[SavedCheck], links: Links, pipelines: list[str]) -> str:
    """Make the list of checks.

    Args:
        checks: Results of the checks, newest first.
        links: Link targets.
        pipelines: Names of pipelines in the navigation.
    """
    body = render("data_checks.html", {"rows": checks, "links": links})
    address = links.data_checks()
    return document("Folders of logs", body, links=links, pipelines=pipelines, address=address)
