"""Source code that a stage's output depends on, derived from the imports of its function.

A stage runs again when code that can change its output changes. That code is the module of the
stage's function and every module of this package that it imports, directly or indirectly, at any
level of the file. Comments, docstrings and formatting do not count.

Two kinds of imports are not followed: modules in `NO_EFFECT`, which run, store and record a stage
without affecting its result, and imports under ``if TYPE_CHECKING:``, which never run.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import nightbid
from nightbid.errors import StageError
from nightbid.loaded_code import has_changed

ROOT = Path(nightbid.__file__).parent
NO_EFFECT = (
    "nightbid.attempt",
    "nightbid.errors",
    "nightbid.jobs",
    "nightbid.night",
    "nightbid.runner",
    "nightbid.storage",
    "nightbid.tracking",
)
"""Packages and modules that cannot change outputs; all others can."""
PARSED = ROOT / "__pycache__" / f"parsed.{sys.implementation.cache_tag}.json"
"""Cache of parsed sources, by content, next to Python's bytecode.

Without it, parsing takes seconds in each process."""
MOST_KEPT = 4000
_new: list[str] = []
"""Keys of modules that this process has parsed but not saved yet."""


@cache
def modules_of(function: str) -> tuple[str, ...]:
    """List the modules that can change what a function computes, sorted.

    Args:
        function: `package.module:function`, or only the module.
    """
    waiting, reached = [function.partition(":")[0]], set[str]()
    while waiting:
        name = waiting.pop()
        if name in reached or _has_no_effect(name):
            continue
        reached.add(name)
        waiting += [module for module in _next_to(name) if module not in reached]
    return tuple(sorted(reached))


@cache
def source_digest(modules: tuple[str, ...]) -> str:
    """Digest of the code of some modules: 32 hexadecimal digits, the same on every machine."""
    total = hashlib.sha256()
    for name in sorted(modules):
        total.update(f"{name} {_digest(name)}\n".encode())
    return total.hexdigest()[:32]


def code_of(functions: Iterable[str]) -> str:
    """Digest of the code that can change what some functions compute.

    Raises:
        StageError: A file of that code has changed since the process started, so that the process
            may run other code than the digest states.
    """
    digest = source_digest(tuple(sorted(_reached(functions))))
    _keep()
    return digest


def parse_all() -> None:
    """Parse every module once, for the processes that are forked from this one.

    They parse again only what has changed, even where no cache can be written, as in a container.
    """
    for path in ROOT.rglob("*.py"):
        # A file that cannot be parsed is reported by the stage that needs it.
        with suppress(OSError, SyntaxError):
            _parse(path.read_bytes())
    _keep()


def loaded_modules(functions: Iterable[str]) -> frozenset[str]:
    """List the modules of some functions that are loaded.

    Iterating over `sys.modules` instead takes 20 ms of CPU time in a fork, such as a task's
    process: it counts references in thousands of shared pages, which are copied.
    """
    return frozenset(name for name in _reached(functions) if name in sys.modules)


def _reached(functions: Iterable[str]) -> set[str]:
    return {name for function in functions for name in modules_of(function)}


def check_late_imports(functions: Iterable[str], loaded: Collection[str]) -> None:
    """Refuse what a stage has computed if it imported a module from a file that had changed.

    Args:
        functions: Functions of the stage.
        loaded: Names of the modules that were loaded when the stage was planned.

    Raises:
        StageError: A module is of another version than the stage's key.
    """
    for name in sorted(loaded_modules(functions).difference(loaded)):
        path = path_of(name)
        if path is not None and has_changed(path):
            raise _changed(path, "the stage was planned")


def _changed(path: Path, since: str) -> StageError:
    return StageError(
        f"the code has changed since {since}: {path.relative_to(ROOT)}",
        where=str(path),
        hint="run it again, or restart the service that runs it; finished stages are reused",
    )


def _has_no_effect(name: str) -> bool:
    return name.startswith(tuple(f"{module}." for module in NO_EFFECT)) or name in NO_EFFECT


def path_of(name: str) -> Path | None:
    """File of a module of this package; None if there is no such module."""
    base = ROOT.joinpath(*name.split(".")[1:])
    for path in (base / "__init__.py", base.with_suffix(".py")):
        if path.is_file():
            return path
    return None


@cache
def _next_to(name: str) -> tuple[str, ...]:
    # Stages share most of their modules.
    return tuple(_imports(name))


def _imports(name: str) -> Iterator[str]:
    """Yield the modules of this package that a module imports, and its parent packages."""
    parent = name.rpartition(".")[0]
    if parent and parent != "nightbid":
        yield parent
    for module, aliases in _parsed(name).imports:
        yield from _module(module)
        for alias in aliases:
            yield from _with_submodules(f"{module}.{alias}")


def _running(body: Iterable[ast.stmt]) -> Iterator[ast.AST]:
    """Walk statements at every depth, except those for type checkers only."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            yield from _running(node.orelse)
            continue
        yield node
        for part in ("body", "orelse", "finalbody"):
            yield from _running(getattr(node, part, ()))
        for part in ("handlers", "cases"):
            for branch in getattr(node, part, ()):
                yield from _running(branch.body)


def _module(name: str) -> Iterator[str]:
    if name.startswith("nightbid.") and path_of(name) is not None:
        yield name


def _with_submodules(name: str) -> Iterator[str]:
    """Yield a module; for a package also its submodules, which it may load without imports."""
    path = path_of(name) if name.startswith("nightbid.") else None
    if path is None:
        return
    yield name
    if path.name == "__init__.py":
        for file in sorted(path.parent.rglob("*.py")):
            inside = file.relative_to(path.parent).with_suffix("").parts
            yield ".".join((name, *(part for part in inside if part != "__init__")))


def _digest(name: str) -> str:
    return _parsed(name).digest


class _ParsedModule(NamedTuple):
    """Information parsed from a module's source."""

    digest: str
    """Digest of the code."""
    imports: list[tuple[str, list[str]]]
    """Imported modules, and the names imported from each."""


@cache
def _parsed(name: str) -> _ParsedModule:
    """Parse a module, unless an earlier process has parsed the same bytes."""
    path = path_of(name)
    assert path is not None, name
    if has_changed(path):
        raise _changed(path, "this process started")
    return _parse(path.read_bytes())


def _parse(content: bytes) -> _ParsedModule:
    key, known = hashlib.sha256(content).hexdigest(), _known()
    if key not in known:
        tree = ast.parse(content)
        imports = list(_imported(tree))  # before docstrings are removed
        known[key] = _ParsedModule(_digest_of(tree), imports)
        _new.append(key)
    return known[key]


def _imported(tree: ast.Module) -> Iterator[tuple[str, list[str]]]:
    for node in _running(tree.body):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module, [alias.name for alias in node.names]


def _digest_of(tree: ast.Module) -> str:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            # A string on its own is the docstring of a module, class, function or attribute.
            body[:] = [statement for statement in body if not _is_text(statement)] or [ast.Pass()]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


@cache
def _known() -> dict[str, _ParsedModule]:
    """Cache of earlier processes; empty if there is none, or if it is damaged."""
    try:
        read = json.loads(PARSED.read_bytes())
        return {
            key: _ParsedModule(digest, [(module, names) for module, names in imports])
            for key, (digest, imports) in read.items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _keep() -> None:
    """Save new entries for later processes, if Python may write its bytecode too."""
    if not _new or sys.dont_write_bytecode or not PARSED.parent.is_dir():
        return
    known = _known()
    entries = known if len(known) <= MOST_KEPT else {key: known[key] for key in _new}
    temporary = PARSED.with_name(f".{PARSED.name}.{os.getpid()}")
    with suppress(OSError):
        temporary.write_text(json.dumps(entries), encoding="utf-8")
        temporary.replace(PARSED)
    _new.clear()
