"""docs/oncall.md has a section for each failure of a night and quotes the product's messages."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from nightbid import errors
from nightbid.config.gates import Gates
from nightbid.config.load import find_pipeline
from nightbid.night.source import modules_of
from nightbid.night.stages import NIGHT
from nightbid_airflow.night import APPROVE, REPORT, WATCH

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "oncall.md").read_text(encoding="utf-8")
PARTS = ("You see", "Why", "Check", "Do", "Again")
LEAST = 12
"""Least number of fixed letters, without values, that a quoted text shares with a message."""
KINDS = {
    name
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.NightbidError)
}
AT_NIGHT = KINDS - {"NightbidError", "DataError", "TrialPruned"}
"""Errors of a night, without `DataError`, which is a base class, and pruned trials of sweeps."""


@dataclass(frozen=True)
class Said:
    """A message of the product as a pattern."""

    pattern: str
    letters: int
    kind: str = ""
    """Class of the error; empty if the text is no error."""
    room: str = ""
    """Package or module of nightbid that contains the text."""

    @cached_property
    def fixed(self) -> str:
        """Return the longest part without values, which every line with this message contains."""
        return max((re.sub(r"\\(.)", r"\1", part) for part in self.pattern.split(".*")), key=len)


def sections() -> dict[str, str]:
    """Return the text under each heading."""
    parts = re.split(r"^## (.+)$", PAGE, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def anchor(heading: str) -> str:
    """Return the anchor that GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def rows() -> list[tuple[set[str], str]]:
    """Return each failure and the anchor of its section."""
    lines = re.findall(r"^\| (.+?) \| .+ \| \[.+\]\(#(.+)\) \|$", PAGE, re.M)
    return [(set(re.split(r", ", who.replace("`", ""))), to) for who, to in lines]


def quoted(text: str) -> list[str]:
    """Return the lines that a section quotes from the product."""
    seen = text.split("**You see**")[1].split("- **Why**")[0]
    # The name of a stage or field is not a line.
    return [text for text in re.findall(r"`([^`]+)`", seen) if " " in text]


@cache
def texts() -> tuple[Said, ...]:
    """Return every message of the product, with each error as one line."""
    spec = importlib.util.find_spec("airflow.sdk.execution_time.supervisor")
    assert spec is not None
    assert spec.origin is not None
    library = sorted((ROOT / "include").rglob("*.py"))
    return tuple(
        text
        for path in (*library, *sorted((ROOT / "plugins").rglob("*.py")), Path(spec.origin))
        for text in _of_file(path)
    )


def _of_file(path: Path) -> Iterator[Said]:
    parts = path.relative_to(ROOT / "include" / "nightbid").parts if path in _ours() else ("",)
    room = parts[0].removesuffix(".py")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in KINDS and node.args:
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            (where, a), (what, b), (hint, c) = (
                _pattern(argument) if argument else ("", 0)
                for argument in (given.get("where"), node.args[0], given.get("hint"))
            )
            line = (f"{where}: " if where else "") + what + (f" → {hint}" if hint else "")
            assert isinstance(node.func, ast.Name)
            yield Said(line, a + b + c, node.func.id, room)
        elif isinstance(node, ast.JoinedStr | ast.BinOp | ast.Constant):
            pattern, letters = _pattern(node)
            yield Said(pattern.removeprefix(r"\ "), letters)


@cache
def _ours() -> frozenset[Path]:
    return frozenset((ROOT / "include" / "nightbid").rglob("*.py"))


def _pattern(node: ast.expr) -> tuple[str, int]:
    """Return a pattern with wildcards for values, and its number of fixed letters."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        text = node.value.strip("\n").replace("`", "'")
        return re.escape(text), len(text)
    if isinstance(node, ast.JoinedStr):
        parts = [_pattern(value) for value in node.values]
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = [_pattern(node.left), _pattern(node.right)]
    else:
        return ".*", 0
    return "".join(pattern for pattern, _ in parts), sum(letters for _, letters in parts)


@cache
def matches(line: str) -> list[Said]:
    """Return the product's messages that match a quoted line, with or without its location."""
    return [
        text
        for text in texts()
        if text.letters >= LEAST
        and text.fixed in line
        and (" → " in text.pattern.replace("\\", "")) == (" → " in line)
        and re.fullmatch(f"(.+: )?\\s*{text.pattern}\\s*", line)
    ]


def test_oncall_page_has_a_row_per_task_and_a_section_per_row() -> None:
    named = {name for who, _ in rows() for name in who}
    tasks = {*(stage.name for stage in NIGHT), APPROVE, WATCH, REPORT}
    assert not (missing := tasks - named), f"no row for {missing} → add one to docs/oncall.md"
    assert [to for _, to in rows()] == [anchor(heading) for heading in sections()]


def test_each_section_of_the_oncall_page_has_all_its_parts() -> None:
    for heading, text in sections().items():
        assert tuple(re.findall(r"^- \*\*(.+?)\*\*", text, re.M)) == PARTS, heading


def test_messages_quoted_in_the_oncall_page_exist_in_the_source() -> None:
    for heading, text in sections().items():
        for line in quoted(text):
            assert matches(line), f"{heading}: nothing in the source says {line!r}"
            gate, _, statistic = line.replace(":", " ").partition(" ")
            if gate.startswith("gate_") and gate.removeprefix("gate_") in Gates.model_fields:
                block = getattr(Gates(), gate.removeprefix("gate_"))
                assert statistic.split()[0] in type(block).model_fields, line


def test_errors_of_each_stage_are_quoted_in_the_sections_of_its_rows() -> None:
    shown = {
        anchor(heading): {message.kind for line in quoted(text) for message in matches(line)}
        for heading, text in sections().items()
    }
    assert not (missing := AT_NIGHT - set().union(*shown.values())), missing
    for stage in NIGHT:
        led = {kind for who, to in rows() if who & {stage.name, "any"} for kind in shown[to]}
        rooms = {name.split(".")[1] for name in modules_of(stage.function)}
        raised = {text.kind for text in texts() if text.room in rooms} & AT_NIGHT
        assert not (missing := raised - led), f"{stage.name} raises {missing} → quote one"


def test_overrides_in_the_oncall_page_are_valid() -> None:
    overrides = re.findall(r"--set (\S+?=\S+?)[`)]", PAGE)
    assert overrides
    for override in overrides:
        find_pipeline("ctr", ROOT / "include" / "pipelines", (override,))
