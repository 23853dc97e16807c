"""MkDocs hooks: files outside of docs/ and the help of the commands become pages of the site."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "benchmarks/RESULTS.md": "RESULTS.md",
}
"""File of the repository → page of the site."""
LINK = re.compile(r"(!?\[[^\]\n]*\])\(([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages from outside of docs/, and the reference of the command line."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    files.append(File.generated(config, "cli.md", content=command_line()))
    return files


def command_line() -> str:
    """Reference of every command, from the help texts."""
    import click
    import typer
    from nightbid.cli.app import app
    from typer.cli import get_docs_for_click

    command = typer.main.get_command(app)
    text: str = get_docs_for_click(obj=command, ctx=click.Context(command), name="nightbid")
    return text


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links at pages of the site; links to other files of the repository become text."""
    source = next((name for name, made in PAGES.items() if made == page.file.src_uri), None)
    here = (ROOT / (source or f"docs/{page.file.src_uri}")).parent

    def resolve(link: re.Match[str]) -> str:
        text, target, anchor = link[1], link[2], link[3] or ""
        if re.match(r"[a-z]+:", target):
            return link[0]
        path = (here / target).resolve()
        if not path.exists():
            raise PluginError(f"{page.file.src_uri}: no file at {target!r} → fix the link")
        name = path.relative_to(ROOT).as_posix()
        made = PAGES.get(name) or (name.removeprefix("docs/") if name.startswith("docs/") else None)
        if made is None:
            return text.removeprefix("[").removesuffix("]")
        return f"{text}({'../' * page.file.src_uri.count('/')}{made}{anchor})"

    return LINK.sub(resolve, markdown)
