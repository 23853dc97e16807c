"""Which source code a stage's output depends on, derived from what its function imports.

A stage runs again when code that can change its output changes. That code is the module of the
stage's function and every module of this package that it imports, directly or through others,
wherever the import stands in the file. Comments, docstrings and formatting do not count.

Two kinds of import are not followed. Modules in `NO_EFFECT` run, store and record a stage without
touching what it computes. Imports under ``if TYPE_CHECKING:`` never run.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import nightbid

ROOT = Path(nightbid.__file__).parent
NO_EFFECT = (
    "nightbid.errors",
    "nightbid.jobs",
    "nightbid.night",
    "nightbid.runner",
    "nightbid.storage",
    "nightbid.tracking",
)
"""Packages and modules that change no output; everything else counts."""
PARSED = ROOT / "__pycache__" / f"parsed.{sys.implementation.cache_tag}.json"
"""What was read from sources, by their bytes, as Python keeps bytecode: to parse them all takes
seconds of each process."""
MOST_KEPT = 4000
_new: list[str] = []
"""Keys of what this process has parsed and not kept yet."""


@cache
def modules_of(function: str) -> tuple[str, ...]:
    """List the modules that can change what a function computes, sorted.

    Args:
        function: `package.module:function`, or the module alone.
    """
    waiting, reached = [function.partition(":")[0]], set[str]()
    while waiting:
        name = waiting.pop()
        if name in reached or _has_no_effect(name):
            continue
        reached.add(name)
        waiting += [each for each in _next_to(name) if each not in reached]
    return tuple(sorted(reached))


@cache
def source_digest(modules: tuple[str, ...]) -> str:
    """Digest of what some modules do: 32 hexadecimal digits, the same on every machine."""
    total = hashlib.sha256()
    for name in sorted(modules):
        total.update(f"{name} {_digest(name)}\n".encode())
    return total.hexdigest()[:32]


def code_of(functions: Iterable[str]) -> str:
    """Digest of the code that can change what some functions compute."""
    reached = {name for function in functions for name in modules_of(function)}
    digest = source_digest(tuple(sorted(reached)))
    _keep()
    return digest


def _has_no_effect(name: str) -> bool:
    return name.startswith(tuple(f"{each}." for each in NO_EFFECT)) or name in NO_EFFECT


def path_of(name: str) -> Path | None:
    """File of a module of this package; None where there is no such module."""
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
    """Walk statements at every depth but those that only a type checker sees."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            yield from _running(node.orelse)
            continue
        yield node
        for part in ("body", "orelse", "finalbody"):
            yield from _running(getattr(node, part, ()))
        for part in ("handlers", "cases"):
            for each in getattr(node, part, ()):
                yield from _running(each.body)


def _module(name: str) -> Iterator[str]:
    if name.startswith("nightbid.") and path_of(name) is not None:
        yield name


def _with_submodules(name: str) -> Iterator[str]:
    """Yield a module; a package that is imported by its name loads modules that no import names."""
    path = path_of(name) if name.startswith("nightbid.") else None
    if path is None:
        return
    yield name
    if path.name == "__init__.py":
        for each in sorted(path.parent.rglob("*.py")):
            inside = each.relative_to(path.parent).with_suffix("").parts
            yield ".".join((name, *(part for part in inside if part != "__init__")))


def _digest(name: str) -> str:
    return _parsed(name).digest


class _Parsed(NamedTuple):
    """What is read from the source of a module."""

    digest: str
    """Of what it does."""
    imports: list[tuple[str, list[str]]]
    """Modules, and the names that are imported from each."""


@cache
def _parsed(name: str) -> _Parsed:
    """Parse a module, unless a process before has parsed the same bytes."""
    path = path_of(name)
    assert path is not None, name
    content = path.read_bytes()
    key, known = hashlib.sha256(content).hexdigest(), _known()
    if key not in known:
        tree = ast.parse(content)
        imports = list(_imported(tree))  # before docstrings are taken out
        known[key] = _Parsed(_digest_of(tree), imports)
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
            # A string that stands alone is a docstring: of a module, class, function, attribute.
            body[:] = [each for each in body if not _is_text(each)] or [ast.Pass()]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


@cache
def _known() -> dict[str, _Parsed]:
    """What earlier processes have parsed; empty where nothing was kept, or it is damaged."""
    try:
        read = json.loads(PARSED.read_bytes())
        return {
            key: _Parsed(digest, [(module, names) for module, names in imports])
            for key, (digest, imports) in read.items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _keep() -> None:
    """Keep what is new for later processes, where Python may write its bytecode, too."""
    if not _new or sys.dont_write_bytecode or not PARSED.parent.is_dir():
        return
    known = _known()
    kept = known if len(known) <= MOST_KEPT else {key: known[key] for key in _new}
    beside = PARSED.with_name(f".{PARSED.name}.{os.getpid()}")
    with suppress(OSError):
        beside.write_text(json.dumps(kept), encoding="utf-8")
        beside.replace(PARSED)
    _new.clear()
