"""Upgrade rehearsals: the same rows, spec and seeds under two sets of pinned packages."""
