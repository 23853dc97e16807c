"""The commands, options, YAML blocks and files that the documents name exist."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from nightbid.cli.app import app
from nightbid.config.load import parse_pipeline
from nightbid.config.pipeline import PipelineSpec

ROOT = Path(__file__).resolve().parents[3]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
CODE_OF_TESTS = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
TREE: Any = typer.main.get_command(app)
BLOCKS = {field.alias or name for name, field in PipelineSpec.model_fields.items()}
NEEDED = {"pipeline": "p", "features": {"ad_id": "vocabulary"}}
OF_A_FOLDER = {"kind": "parquet", "folder": "/logs"}
"""What an example may leave out because another example of the page shows it."""


def commands(text: str) -> list[str]:
    """Return the `nightbid` commands of a page: in code spans, and in blocks of a shell."""
    blocks = re.findall(r"^```(?:sh|bash)\n(.*?)^```", text, re.M | re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    in_blocks = [
        match[1] for line in lines if (match := re.search(r"(?:^|&& )(nightbid .*)", line))
    ]
    return [*re.findall(r"`(nightbid [a-z][^`]*)`", text.replace("\n", " ")), *in_blocks]


def problem(command: str) -> str:
    """Return what is wrong with a command; empty if it exists and has all options."""
    words = shlex.split(re.split(r"\s#\s|\s\|\|", command.replace("…", "X"))[0])[1:]
    node = TREE
    while words and words[0] in getattr(node, "commands", {}):
        node = node.commands[words.pop(0)]
    if node is TREE or getattr(node, "commands", None):
        return f"{command}: there is no such command"
    known = {name for parameter in node.params for name in parameter.opts} | {"--help"}
    given = {word.partition("=")[0] for word in words if word.startswith("--")}
    return f"{command}: there is no {given - known}" if given - known else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_the_documents_exist_with_their_options(page):
    found = [problem(command) for command in commands(page.read_text(encoding="utf-8"))]
    assert [text for text in found if text] == []


def test_a_wrong_command_or_option_of_a_document_is_found():
    assert problem("nightbid gates shows ctr")
    assert problem("nightbid cost show ctr --per month")
    assert not problem("nightbid cost show ctr --by month")


def hints(tree: ast.AST) -> Iterator[str]:
    """Yield the texts of `hint=` in calls; a value that is filled in is X."""
    for call in ast.walk(tree):
        for keyword in call.keywords if isinstance(call, ast.Call) else ():
            if keyword.arg == "hint":
                yield "".join(
                    "X" if isinstance(part, ast.FormattedValue) else str(part.value)
                    for part in ast.walk(keyword.value)
                    if isinstance(part, (ast.Constant, ast.FormattedValue))
                )


def incomplete(command: str) -> str:
    """Return what is wrong with a command of an error message; empty if it can be typed."""
    words = shlex.split(command)[1:]
    node = TREE
    while words and words[0] in getattr(node, "commands", {}):
        node = node.commands[words.pop(0)]
    if getattr(node, "commands", None):
        return f"{command}: there is no such command"
    try:
        given = node.make_parser(node.context_class(node)).parse_args(words)[0]
    except Exception as error:  # Typer's own copy of Click has private classes
        return f"{command}: {error}"
    missing = [each.name for each in node.params if each.required and not given.get(each.name)]
    return f"{command}: without {', '.join(missing)}" if missing else ""


def test_commands_of_error_messages_can_be_typed():
    """They name the pipeline and every required option, so that nobody has to look them up."""
    wrong, checked = [], 0
    for folder in ("include", "plugins"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for hint in hints(ast.parse(path.read_text(encoding="utf-8"))):
                for command in re.findall(r"`(nightbid [a-z][^`]*)`", hint):
                    checked += 1
                    if text := incomplete(command):
                        wrong.append(f"{path.name}: {text}")
    assert wrong == []
    assert checked > 30
    assert incomplete("nightbid rollback ctr") == "nightbid rollback ctr: without reason"
    assert incomplete("nightbid runs --bast ctr")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_yaml_blocks_of_the_documents_are_valid(page):
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"^```yaml\n(.*?)^```", text, re.M | re.S):
        tree = yaml.safe_load(block)
        if not set(tree) & BLOCKS or "profile" in tree:
            continue  # settings of an installation
        tree = {**NEEDED, **tree}
        source = tree.get("source", {})
        if "kind" not in source and (source or "arrival" in tree):
            tree["source"] = {**OF_A_FOLDER, **source}
        parse_pipeline(yaml.safe_dump(tree), f"{tree['pipeline']}.yaml")


def test_files_and_tests_that_the_documents_name_exist():
    named = re.compile(
        r"`((?:include|plugins|tests|benchmarks|dags|docs|compose|tools)/[\w./-]+\.\w+)`"
    )
    planted = {"include/.env", "include/pipelines/service-account.json", "plugins/tls.key"}
    for page in PAGES:
        files = set(named.findall(page.read_text(encoding="utf-8"))) - planted
        assert [file for file in sorted(files) if not (ROOT / file).exists()] == [], page.name
        tests = re.findall(r"\btest_\w+\b(?!\.py)", page.read_text(encoding="utf-8"))
        assert [name for name in tests if f"def {name}" not in CODE_OF_TESTS] == [], page.name


def test_the_site_has_the_help_of_every_command():
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    text = hooks.command_line()
    for name, command in TREE.commands.items():
        for child in getattr(command, "commands", ("",)):
            assert f"`{f'nightbid {name} {child}'.strip()}`" in text


def test_every_picture_is_shown_by_a_page_and_taken_by_make_screenshots():
    kept = {path.stem for path in (ROOT / "docs" / "images").iterdir()}
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert set(re.findall(r"images/([\w-]+)\.png", text)) == kept
    tool = ast.parse((ROOT / "tools" / "screenshots.py").read_text(encoding="utf-8"))
    calls = (node for node in ast.walk(tool) if isinstance(node, ast.Call))
    taken = {
        str(ast.literal_eval(call.args[0]))
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id == "Picture"
    }
    assert taken == kept
