"""Python functions for features that the built-in transforms cannot express."""

from __future__ import annotations

import difflib
from collections.abc import Callable

import pyarrow as pa

from nightbid.errors import ConfigError

FeatureFunction = Callable[..., pa.Array]
"""Takes one Arrow array [rows] per column and returns one [rows]; must be a pure function."""

_REGISTERED: dict[str, FeatureFunction] = {}


def feature_function(function: FeatureFunction) -> FeatureFunction:
    """Register a function under its own name, for `transform: function`.

    Its code must be in `nightbid.features`, so that changes to it recompute the features.
    """
    _REGISTERED[function.__name__] = function
    return function


def named_function(name: str) -> FeatureFunction:
    """Look up a registered function.

    Raises:
        ConfigError: No function has this name.
    """
    if name not in _REGISTERED:
        close = difflib.get_close_matches(name, _REGISTERED, n=1)
        known = ", ".join(sorted(_REGISTERED)) or "none"
        raise ConfigError(
            f"no registered function called {name!r}",
            where="features",
            hint=f"did you mean {close[0]!r}?" if close else f"registered functions: {known}",
        )
    return _REGISTERED[name]


@feature_function
def text_length(text: pa.Array) -> pa.Array:
    """Return the number of characters of each text, [rows]."""
    import pyarrow.compute as pc

    return pc.utf8_length(text.cast(pa.string()))
