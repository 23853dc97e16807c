"""Great Expectations without work that it repeats.

It spends most of a validation on preparation: it builds the configuration of an expectation
for each of its arguments, and a context, which writes its settings as YAML, for each batch. The
replacements here give the same results (a test compares them).
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

UNUSED = (
    "alembic",
    "boto3",
    "google.cloud.bigquery",
    "google.cloud.secretmanager",
    "google.cloud.storage",
    "pyspark",
    "sqlalchemy",
    "sqlalchemy_bigquery",
)
"""Optional modules that Great Expectations imports for databases and clouds. Gates do not need
them, and they take a third of its import time."""

_of_thread = threading.local()
"""`batches`: the batch definition of this thread. A context keeps the data of its last batch.
`unread`: whether no page shows the fingerprint of this thread's batches."""


@contextmanager
def quick_import() -> Iterator[None]:
    """Import Great Expectations quietly and without the parts that gates never use."""
    # Neither the context nor a validation may send analytics from a production task.
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    loaded = "great_expectations" in sys.modules
    hidden = [name for name in UNUSED if not loaded and name not in sys.modules]
    for name in hidden:
        # A None in sys.modules makes the import raise ImportError, as if not installed.
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
        # It sets its own log level, to announce the folder of a Data Docs site that is never built.
        logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)


def batch_of(frame: pd.DataFrame) -> Any:
    """Return a data frame as a batch of Great Expectations."""
    with quick_import():
        import great_expectations as gx
    _replace_slow_methods()
    if not hasattr(_of_thread, "batches"):
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False}
        asset = context.data_sources.add_pandas("profile").add_dataframe_asset("facts")
        _of_thread.batches = asset.add_batch_definition_whole_dataframe("night")
    return _of_thread.batches.get_batch(batch_parameters={"dataframe": frame})


@contextmanager
def without_fingerprint() -> Iterator[None]:
    """Leave out the hash of all rows, which the engine computes twice and only pages show."""
    _of_thread.unread = True
    try:
        yield
    finally:
        _of_thread.unread = False


def page_of(result: Any) -> str:
    """Render the result of a validation as an HTML page (Data Docs), without scripts."""
    from great_expectations.render.renderer import ValidationResultsPageRenderer

    page: str = _view().render(ValidationResultsPageRenderer().render(result))
    # The page is served with Nightbid's own pages, so it must not load external scripts. Its links
    # to a Data Docs site lead to the page of the gate.
    page = re.sub(r"<script\b.*?</script>", "", page, flags=re.DOTALL)
    return page.replace("../../../../index.html", "index.html")


@functools.cache
def _view() -> Any:
    """Return the view, which keeps its compiled templates."""
    from great_expectations.render.view import DefaultJinjaPageView

    return DefaultJinjaPageView()


@functools.cache
def _replace_slow_methods() -> None:
    from great_expectations.core.id_dict import IDDict
    from great_expectations.execution_engine import pandas_execution_engine
    from great_expectations.expectations import expectation
    from great_expectations.expectations.expectation import Expectation

    expectation.camel_to_snake = functools.cache(expectation.camel_to_snake)
    pandas_execution_engine.hash_pandas_dataframe = _fingerprint(
        pandas_execution_engine.hash_pandas_dataframe
    )
    Expectation._get_runtime_kwargs = _runtime_kwargs(Expectation._get_runtime_kwargs)
    IDDict.to_id = _to_id(IDDict.to_id)


def _runtime_kwargs(slow: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    from great_expectations.expectations.expectation import parse_result_format

    @functools.wraps(slow)
    def of(self: Any, runtime_configuration: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the arguments of an expectation, from one configuration."""
        configured, overrides = self.configuration.kwargs, runtime_configuration or {}

        def value(key: str) -> Any:
            return configured[key] if key in configured else self._get_default_value(key)

        arguments = {
            key: overrides[key] if key in overrides else value(key) for key in self.runtime_keys
        }
        arguments.update((key, value(key)) for key in (*self.success_keys, *self.domain_keys))
        arguments["result_format"] = parse_result_format(arguments["result_format"])
        return arguments

    return of


def _fingerprint(slow: Callable[..., str]) -> Callable[..., str]:
    @functools.wraps(slow)
    def of(frame: pd.DataFrame) -> str:
        """Return the hash of a data frame, or nothing within `without_fingerprint`."""
        return "" if getattr(_of_thread, "unread", False) else slow(frame)

    return of


def _to_id(slow: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(slow)
    def of(self: Any, id_keys: Any = None, id_ignore_keys: Any = None) -> Any:
        """Return the identifier of a dictionary, without converting values that JSON has."""
        is_whole = id_keys is None and id_ignore_keys is None and not self._id_ignore_keys
        if len(self) < 2 or not is_whole or not _is_plain(self):
            return slow(self, id_keys, id_ignore_keys)
        text = json.dumps(self, sort_keys=True)
        return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()

    return of


def _is_plain(value: Any) -> bool:
    if value is None or type(value) in (str, int, bool):
        return True
    if type(value) is float:
        return value == value  # NaN is converted
    if isinstance(value, dict):
        return all(type(key) is str and _is_plain(part) for key, part in value.items())
    return isinstance(value, (list, tuple)) and all(map(_is_plain, value))
