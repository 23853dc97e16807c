"""Mergeable statistics of rows, which gates judge instead of the rows themselves."""

from nightbid.profile.column import ColumnProfile
from nightbid.profile.profile import Profile

__all__ = ["ColumnProfile", "Profile"]
