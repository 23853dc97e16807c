"""Addresses of services in messages and records: without the password that they may contain."""

from __future__ import annotations

from urllib.parse import unquote


def shown(address: str) -> str:
    """Get an address without user, password and query, which may be secret."""
    scheme, mark, rest = address.partition("?")[0].partition("://")
    if not rest.startswith("/"):  # a path, such as that of sqlite:///me@work.db, has no user
        rest = rest.rpartition("@")[2]
    return f"{scheme}{mark}{rest}"


def hide(text: str, address: str) -> str:
    """Remove the secret parts of an address from an error message about it."""
    bare, _, query = address.partition("?")
    user = bare.partition("://")[2].rpartition("@")[0]
    password = user.partition(":")[2]
    text = text.replace(address, shown(address))
    for secret in (f"{user}@" if user else "", password, unquote(password), query):
        if secret:
            text = text.replace(secret, "")
    return text
