"""Loads the values of a YAML text as people mean them, and refuses repeated keys.

Plain `on`, `off`, `yes`, `no`, `010` and `16:00` are texts, as in YAML 1.2
(https://yaml.org/spec/1.2.2/#103-core-schema). YAML 1.1 reads a column `on` as true, 010 as 8 and
16:00 as 960. A field of another type accepts these texts: `approval: yes` is true.
"""

from __future__ import annotations

import re
from math import inf
from pathlib import Path
from typing import Any

import yaml

from nightbid.errors import ConfigError

MOST_VALUES = 100_000
"""Maximum number of values in a YAML file, each counted as often as an anchor repeats it."""
LONGEST_NUMBER = 400
UNREADABLE = (ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError)
"""Errors other than its own that PyYAML raises for a value that it cannot construct."""
TAG = "tag:yaml.org,2002:"
SCALARS = {
    "bool": ("true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)", "-+0123456789"),
    "float": (
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?"
        r"|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
}
"""Type → (pattern of its plain scalars, their first characters)."""


class StrictLoader(yaml.CSafeLoader):
    """Refuses repeated keys; limits the number of merged keys (`<<`) and the length of numbers."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.merged = 0
        self.checked: set[yaml.MappingNode] = set()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Insert merged keys into a mapping; raise an error if it repeats a key of its own."""
        self._check_repeated_keys(node)
        super().flatten_mapping(node)
        self.merged += len(node.value)
        if self.merged > 2 * MOST_VALUES:
            raise _TooManyError

    def _check_repeated_keys(self, node: yaml.MappingNode) -> None:
        # A mapping is flattened again where another one merges it; then it has merged keys, too.
        if node in self.checked:
            return
        self.checked.add(node)
        known = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in known:
                    raise yaml.constructor.ConstructorError(
                        problem=f"the key {key.value!r} occurs twice",
                        problem_mark=key.start_mark,
                    )
                known.add((key.tag, key.value))

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Read a whole number; its conversion takes time that grows as the square of its length."""
        if len(node.value) > LONGEST_NUMBER:
            raise ValueError(f"a whole number of {len(node.value):,} characters")
        return int(super().construct_yaml_int(node))


StrictLoader.add_constructor(f"{TAG}int", StrictLoader.construct_yaml_int)
StrictLoader.yaml_implicit_resolvers = {
    first: [rule for rule in rules if rule[0].removeprefix(TAG) not in SCALARS]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _name, (_pattern, _first) in SCALARS.items():
    StrictLoader.add_implicit_resolver(f"{TAG}{_name}", re.compile(f"^(?:{_pattern})$"), _first)


def read_text(path: Path, where: str) -> str:
    """Read the text of a file; raise a one-line error if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot read the file ({error.strerror})",
            where=str(path),
            hint="check the name, or list the pipelines with `nightbid pipelines`",
        ) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"byte 0x{error.object[error.start]:02x} is not UTF-8",
            where=f"{where}:{line}",
            hint="save the file as UTF-8",
        ) from error


def read_yaml(path: Path, where: str) -> Any:
    """Read a YAML file.

    Args:
        path: Path of the file.
        where: Name of the file, for error messages.

    Raises:
        ConfigError: The file cannot be read or has too many values.
    """
    return parse_yaml(read_text(path, where), where)


def parse_yaml(text: str, where: str) -> Any:
    """Parse the text of a YAML file.

    Args:
        text: Content of the file.
        where: Name of the file, for error messages.

    Raises:
        ConfigError: The text is not YAML, repeats a key or has too many values; the message names
            the line.
    """
    try:
        return load_value(text, where)
    except UNREADABLE as error:
        raise ConfigError(
            f"a value cannot be read: {' '.join(str(error).split()) or type(error).__name__}",
            where=where,
            hint="correct the value, or quote it if it is text (a date must exist)",
        ) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"{where}:{mark.line + 1}" if mark else where
        problem = getattr(error, "problem", None) or "cannot be parsed"
        wrong = text.splitlines()[mark.line : mark.line + 1] if mark else []
        if wrong and "\t" in wrong[0][: -len(wrong[0].lstrip())]:
            problem = "a tab indents the line, which YAML allows for spaces only"
        raise ConfigError(
            f"malformed YAML: {problem}", where=line, hint="fix this line (or the one above)"
        ) from error


def load_value(text: str, where: str) -> Any:
    """Load YAML; refuse repeated keys, and anchors that expand to more values than fit in memory.

    Raises:
        ConfigError: The YAML has more than `MOST_VALUES` values.
        yaml.YAMLError, or one of `UNREADABLE`: The text is not valid YAML.
    """
    try:
        tree = yaml.load(text, Loader=StrictLoader)  # noqa: S506 - a SafeLoader
    except _TooManyError:
        raise _too_many(where) from None
    count = _values_in(tree, {})
    if count > MOST_VALUES:
        raise _too_many(where)
    return tree


def _too_many(where: str) -> ConfigError:
    return ConfigError(
        f"its anchors (&, *) expand to more than {MOST_VALUES:,} values",
        where=where,
        hint="write the values out instead of using anchors",
    )


class _TooManyError(Exception):
    """Raised when merged keys expand to too many values."""


def _values_in(tree: Any, known: dict[int, float]) -> float:
    """Count values as often as they are referenced; infinity for a value that contains itself."""
    if not isinstance(tree, (dict, list)):
        return 1
    if id(tree) not in known:
        known[id(tree)] = inf
        inner = tree.values() if isinstance(tree, dict) else tree
        known[id(tree)] = 1 + sum(_values_in(node, known) for node in inner)
    return known[id(tree)]
