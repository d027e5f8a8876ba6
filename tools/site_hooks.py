"""What MkDocs does besides: the commands' own help as a page, links into the checkout, and the list of decisions."""

import re
from pathlib import Path
from typing import Any

import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from simulations.cli.main import app
from tools.config_tables import config_tables

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(!?)\[([^\]]*)\]\((\.\./(?:\.\./)*[^)#]+)\)")

command = typer.main.get_command(app)
"""What `docs/api/commands.md` is generated from."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add every decision to the navigation, in order."""
    decisions: list[Any] = [f"decisions/{path.name}" for path in sorted((ROOT / "docs" / "decisions").glob("*.md"))]
    if config.nav is not None:
        config.nav.append({"Decisions": decisions})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the figures of committed results, which pages show."""
    for path in sorted((ROOT / "results" / "reference").rglob("*.svg")):
        place = str(path.relative_to(ROOT))
        files.append(File.generated(config, place, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Insert the config's keys, and show links to source files as their paths; a missing target fails."""
    markdown = markdown.replace("<!-- config keys -->", config_tables())
    # Markdown inside a folded part is only read if the tag says so; other viewers do not need that.
    markdown = markdown.replace("<details>", "<details markdown>")
    here = (ROOT / "docs" / page.file.src_uri).parent

    def replaced(link: re.Match[str]) -> str:
        target = (here / link[3]).resolve()
        if not target.exists():
            raise FileNotFoundError(f"{page.file.src_uri}: {link[3]}: no such file")
        if target.is_relative_to(ROOT / "docs"):
            return link[0]
        if link[1]:
            return f"![{link[2]}]({'../' * page.file.src_uri.count('/')}{target.relative_to(ROOT)})"
        path = f"`{target.relative_to(ROOT)}`"
        return path if link[2].strip("`").rstrip("/") == str(target.relative_to(ROOT)) else f"{link[2]} ({path})"

    return LINK.sub(replaced, markdown)
