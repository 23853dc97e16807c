"""Rehearsing an upgrade: the same rows, spec and seeds under two sets of pinned packages."""
