"""Lets tasks and parses use library code that was edited after Airflow's processes started.

A task, and each parse of a DAG file, is a fork of a process that has imported the library: of the
scheduler or the DAG processor, which load the plugin and may have loaded the stages in advance.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from nightbid.loaded_code import forget, is_any_changed

P = ParamSpec("P")
T = TypeVar("T")


def with_current_code(make: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function that makes DAGs: if the library has changed, it is loaded again first.

    The parts of the plugin that a fork inherits as objects, such as listeners, stay as they were.

    Args:
        make: Function of a module, called by a DAG file.
    """

    @functools.wraps(make)
    def current(*arguments: P.args, **named: P.kwargs) -> T:
        if not is_any_changed():
            return make(*arguments, **named)
        forget("nightbid_airflow")
        module = importlib.import_module(make.__module__)
        again: Callable[P, T] = getattr(module, make.__name__)
        return again(*arguments, **named)

    return current
