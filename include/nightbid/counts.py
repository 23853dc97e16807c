"""Formats counts with their nouns and verbs for readers: "1 row was", "1,234 rows were"."""

from __future__ import annotations


def counted(count: int, noun: str, plural: str = "") -> str:
    """Format a count with its noun: `1 row`, `0 rows`, `1,234 rows`.

    Args:
        count: What is counted, 0 or more.
        noun: The noun of one, which may have words before it: `young day`.
        plural: The noun of several, if it is not the noun with an s: `entries`, `rows of keys`.
    """
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def are(count: int) -> str:
    """Verb of that many: `is` of one, otherwise `are`."""
    return "is" if count == 1 else "are"
