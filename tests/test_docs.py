"""The documentation: links lead somewhere, code compiles, Chinese pages have the English ones' headings."""

import ast
import re
from pathlib import Path

import pytest

from fastcnn.__main__ import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
# Pages that the site's hook makes, see scripts/docs_hooks.py.
MADE = {"index.md", "operators/index.md"}


def names(paths):
    return [path.relative_to(DOCS).as_posix() for path in paths]


@pytest.mark.parametrize("page", names(PAGES))
def test_links_lead_to_pages_and_files(page):
    text = (DOCS / page).read_text()
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text):
        path = (DOCS / page).parent / target
        made = path.resolve().relative_to(DOCS).as_posix() in MADE if path.resolve().is_relative_to(DOCS) else False
        assert made or path.exists(), target


@pytest.mark.parametrize("page", names(PAGES))
def test_python_blocks_compile(page):
    for block in re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE):
        ast.parse(block)


@pytest.mark.parametrize("page", [name for name in names(PAGES) if name.startswith("zh/") and name != "zh/index.md"])
def test_chinese_pages_have_the_english_headings_and_code(page):
    def outline(path):
        text = path.read_text()
        code = re.findall(r"^```console\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        commands = [line.split("#")[0].strip() for block in code for line in block.splitlines()]
        return [heading.count("#") for heading in re.findall(r"^#+ ", text, re.MULTILINE)], commands

    assert outline(DOCS / page) == outline(DOCS / page.removeprefix("zh/"))


def test_every_command_is_documented():
    text = (DOCS / "commands.md").read_text()
    for command in app.registered_commands:
        assert f"`{command.name or command.callback.__name__}" in text
