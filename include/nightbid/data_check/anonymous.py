"""Finds the values of a user column that mean that a row has no user."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from nightbid.anonymous import ALWAYS, UserColumn
from nightbid.column_parsing import encode
from nightbid.data_check.columns import ColumnSummary

PLACEHOLDERS = frozenset(
    ("0", "-1", "-", "--", "?", "null", "(null)", "none", "(none)", "nil", "nan", "na", "n/a",
     "\\n", "undefined", "unknown", "unset", "not set", "(not set)", "empty", "missing",
     "anonymous", "anon", "guest", "default", "no_consent", "optout", "opt-out",
     *(hashlib.new(name, b"").hexdigest() for name in ("md5", "sha1", "sha256"))),
)  # fmt: skip
"""Texts, in lower case, that are rarely the id of a user; the last are hashes of empty text."""
LEAST_SHARE, LEAST_RATIO = 0.001, 5.0
"""Such a text is no user from this share of the rows on, and from this multiple of the mean rows of
a user on."""
IMPLAUSIBLE_SHARE, IMPLAUSIBLE_RATIO = 0.05, 20.0
"""Any other value is no user from this share on, and from this multiple of the next one's rows."""
FEWEST_USERS = 20
"""With fewer values, none of them is implausible."""
MOST = 1000
"""Number of most frequent values to look at."""


@dataclass(frozen=True)
class AnonymousRows:
    """Rows of a sample without a user."""

    absent: float = 0.0
    """Share of the rows whose value means no user in all logs: null, empty, a UUID of zeros."""
    values: tuple[tuple[str, float], ...] = ()
    """Further values that seem to mean no user, most frequent first, and their shares."""

    @property
    def may_be_users(self) -> tuple[str, ...]:
        """Values that are no known placeholders, so that they may be the id of a user."""
        return tuple(text for text, _ in self.values if not _is_placeholder(text))

    @property
    def share(self) -> float:
        """Share of the rows without a user."""
        return self.absent + sum(share for _, share in self.values)

    def __str__(self) -> str:
        """Describe the share and what it consists of."""
        parts = [f"{self.absent:.1%} null, empty or zeros"] if self.absent else []
        parts += [f"{share:.1%} {text!r}" for text, share in self.values]
        return f"{self.share:.1%} of the rows have no user ({', '.join(parts)})"


def anonymous_rows(column: ColumnSummary) -> AnonymousRows:
    """Look for the values of a user column that mean no user.

    Args:
        column: Summary of the user column.
    """
    codes, tokens = encode(UserColumn(column.name, ALWAYS).with_nulls(column.values))
    rows, known = max(len(codes), 1), codes >= 0
    counts = np.bincount(codes[known], minlength=len(tokens))
    users = max(int((counts > 0).sum()), 1)
    order = np.argsort(-counts, kind="stable")[:MOST]
    frequent = [(str(tokens[at]), int(counts[at])) for at in order.tolist()]
    least = max(LEAST_SHARE * rows, LEAST_RATIO * int(known.sum()) / users)
    found = [(text, count) for text, count in frequent if _is_placeholder(text) and count >= least]
    others = [pair for pair in frequent if pair not in found]
    if users >= FEWEST_USERS and len(others) > 1:
        (text, count), (_, following) = others[:2]
        if count >= max(IMPLAUSIBLE_SHARE * rows, IMPLAUSIBLE_RATIO * following):
            found.append((text, count))
    found.sort(key=lambda pair: -pair[1])
    values = tuple((text, count / rows) for text, count in found)
    return AnonymousRows(float((~known).sum()) / rows, values)


def _is_placeholder(text: str) -> bool:
    return text.strip().lower() in PLACEHOLDERS
