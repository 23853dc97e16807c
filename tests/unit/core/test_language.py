"""What people read is plain English: words of a private dialect stay out."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
INSTEAD = {
    r"anew": "again, from scratch, re-…",
    r"foretold|foretell": "forecast",
    r"mend(s|ed|ing)?": "fix",
    r"whoever": "name who: the next attempt, a user, a watcher",
    r"thereof": "of it",
    r"asks nobody": "has no authentication",
    r"in (its|the) midst": "during, mid-run",
    r"must somebody": "is this urgent?",
    r"a (person's|user's) word": "a user's request",
    r"of (ours|yours)": "our own, your own",
    # American spelling.
    r"\w+[lr]ised|optimiser\w*|summarise\w*|analyse\w*": "-ized, -izer, -yze",
    r"colou(r|rs|red)|behaviour\w*|neighbour\w*": "color, behavior, neighbor",
    r"\w*labelled|centre[sd]?": "labeled, center",
    r"judgement\w*|catalogue\w*|licence\w*|artefact\w*": "judgment, catalog, license, artifact",
    r"(is|was|be) cancelled": "canceled",
}
"""Pattern of whole words → what to write instead."""
FRAGMENTS = (
    re.compile(r"^\s+\*{0,2}\w+: (of|whose|which|its) [\w ,]{1,40}\.$", re.I | re.M),
    re.compile(r'^\s*"""(Of|Whose|As many|Between two|At its) ', re.M),
)
"""Docstrings that name no subject: "run: of which.", "Of the workers."."""
SUFFIXES = {".py", ".md", ".yaml", ".yml", ".html", ".css", ".js", ".sql", ".toml", ".sh"}
PLACES = ("include", "plugins", "dags", "docs", "compose", ".github")
FILES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "Makefile", "mkdocs.yml")


def written() -> list[Path]:
    """Files whose text users and contributors read, without vendored ones."""
    found = [
        path
        for place in PLACES
        for path in sorted((ROOT / place).rglob("*"))
        if path.suffix in SUFFIXES and not path.name.startswith("plot.")
    ]
    return [*found, *(ROOT / name for name in FILES)]


def test_texts_contain_no_banned_words() -> None:
    rules = [(re.compile(rf"\b({word})\b", re.I), use) for word, use in INSTEAD.items()]
    wrong = []
    for path in written():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for rule, use in rules:
                if seen := rule.search(line):
                    where = f"{path.relative_to(ROOT)}:{number}"
                    wrong.append(f"{where}: {seen[0]!r} → write: {use}")
    assert not wrong, "\n".join(wrong)


def test_banned_words_are_found_in_a_sample_sentence() -> None:
    text = "Whoever mends it begins anew, as foretold: normalised, in colour."
    seen = [word for word in INSTEAD if re.search(rf"\b({word})\b", text, re.I)]
    assert len(seen) == 6


def test_docstrings_describe_arguments_and_attributes_in_full() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, seen.end()) + 1}: {seen[0].strip()}"
        for path in written()
        if path.suffix == ".py"
        for text in [path.read_text(encoding="utf-8")]
        for pattern in FRAGMENTS
        for seen in pattern.finditer(text)
    ]
    assert not wrong, "write a sentence or a noun phrase:\n" + "\n".join(wrong)


@pytest.mark.parametrize("text", ["        run: Of which.\n", '    """Of the workers."""\n'])
def test_docstring_fragments_are_found(text: str) -> None:
    assert any(pattern.search(text) for pattern in FRAGMENTS)


def shared_names(sources: Mapping[str, str]) -> list[str]:
    """Find names that several classes or type aliases share; a leading underscore does not count.

    Modules may repeat an alias, such as `Floats`, if its definition is the same.
    """
    found: defaultdict[str, dict[str, list[str]]] = defaultdict(dict)
    for where, text in sources.items():
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                place = f"{where}:{node.lineno}"
                found[node.name.lstrip("_")][place] = [place]
        for node in tree.body:
            if isinstance(node, ast.Assign):
                target = node.targets[0]
            elif isinstance(node, ast.AnnAssign) and "TypeAlias" in ast.unparse(node.annotation):
                target = node.target
            else:
                continue
            name = target.id.lstrip("_") if isinstance(target, ast.Name) else ""
            if name[:1].isupper() and not name.isupper() and node.value is not None:
                same = found[name].setdefault(ast.unparse(node.value), [])
                same.append(f"{where}:{node.lineno}")
    return [
        f"{name}: " + ", ".join(places[0] for places in meanings.values())
        for name, meanings in sorted(found.items())
        if len(meanings) > 1
    ]


def test_every_class_has_a_name_of_its_own() -> None:
    sources = {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for place in ("include", "plugins")
        for path in sorted((ROOT / place).rglob("*.py"))
    }
    shared = shared_names(sources)
    assert not shared, "name each for what it is, and add it to docs/renames.md:\n" + "\n".join(
        shared
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("class Rows: ...", "class Rows: ..."),
        ("class Rows: ...", "class _Rows: ..."),
        ("class Rows: ...", "class Table:\n    class Rows: ..."),
        ("class Rows: ...", "Rows = list[int]"),
        ("Rows = list[float]", "Rows: TypeAlias = list[int]"),
    ],
)
def test_shared_names_are_found(first: str, second: str) -> None:
    assert shared_names({"a.py": first, "b.py": second})


def test_equal_aliases_and_constants_may_repeat() -> None:
    alias = "Floats = npt.NDArray[np.float64]\n"
    assert not shared_names({"a.py": f"{alias}X = 1", "b.py": f"{alias}X = 2"})
