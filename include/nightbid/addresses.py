"""Addresses of services in messages and records: without the password that they may contain."""

from __future__ import annotations

from urllib.parse import unquote


def shown(address: str) -> str:
    """Get an address without user, password and query, which may be secret."""
    scheme, _, place = _parts(address)
    return scheme + place


def hide(text: str, address: str) -> str:
    """Remove the secret parts of an address from an error message about it."""
    _, user, _ = _parts(address)
    password, query = user.partition(":")[2], address.partition("?")[2]
    text = text.replace(address, shown(address))
    for secret in (f"{user}@" if user else "", password, unquote(password), query):
        if secret:
            text = text.replace(secret, "")
    return text


def _parts(address: str) -> tuple[str, str, str]:
    """Split an address into its scheme with `://`, its user with password, and its place."""
    scheme, mark, rest = address.partition("://")
    bare = rest.partition("?")[0]
    if not mark or rest.startswith("/"):  # a path, such as that of sqlite:///me@work.db: no user
        return scheme.partition("?")[0] + mark, "", bare
    # A question mark before the host is part of a password that is not escaped.
    user, _, place = (bare if {"@", "/"} & set(bare) else rest).rpartition("@")
    return scheme + mark, user, place.partition("?")[0]
