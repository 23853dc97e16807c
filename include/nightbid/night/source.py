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
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

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
        waiting += [each for each in _imports(name) if each not in reached]
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
    return source_digest(tuple(sorted(reached)))


def _has_no_effect(name: str) -> bool:
    return name.startswith(tuple(f"{each}." for each in NO_EFFECT)) or name in NO_EFFECT


def path_of(name: str) -> Path | None:
    """File of a module of this package; None where there is no such module."""
    base = ROOT.joinpath(*name.split(".")[1:])
    for path in (base / "__init__.py", base.with_suffix(".py")):
        if path.is_file():
            return path
    return None


def _imports(name: str) -> Iterator[str]:
    """Yield the modules of this package that a module imports, and its parent packages."""
    parent = name.rpartition(".")[0]
    if parent and parent != "nightbid":
        yield parent
    for node in _running(_tree(name).body):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _module(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from _module(node.module)
            for alias in node.names:
                yield from _with_submodules(f"{node.module}.{alias.name}")


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


@cache
def _tree(name: str) -> ast.Module:
    path = path_of(name)
    assert path is not None, name
    return ast.parse(path.read_bytes())


@cache
def _digest(name: str) -> str:
    tree = _tree(name)
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
