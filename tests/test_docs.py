"""The documentation: links lead somewhere, code compiles, the Chinese pages say what the English ones say."""

import ast
import re
from pathlib import Path

import pytest

from fastcnn.__main__ import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
NUMBER = r"\d+(?:[.,]\d+)*"
# Pages that the site's hook makes, see scripts/docs_hooks.py.
MADE = {"index.md", "operators/index.md", "zh/operators/index.md"}


def names(paths):
    return [path.relative_to(DOCS).as_posix() for path in paths]


# The reference is made of docstrings, in English for both; the English home page is the README.
ENGLISH = [name for name in names(PAGES) if not name.startswith(("zh/", "api/"))]


def english(name):
    return ROOT / "README.md" if name == "index.md" else DOCS / name


@pytest.mark.parametrize("page", names(PAGES))
def test_links_lead_to_pages_and_files(page):
    text = (DOCS / page).read_text("utf-8")
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text):
        path = (DOCS / page).parent / target
        made = path.resolve().relative_to(DOCS).as_posix() in MADE if path.resolve().is_relative_to(DOCS) else False
        assert made or path.exists(), target


@pytest.mark.parametrize("page", names(PAGES))
def test_python_blocks_compile(page):
    for block in re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text("utf-8"), re.DOTALL | re.MULTILINE):
        ast.parse(block)


def test_both_languages_have_the_same_pages_and_the_site_shows_them():
    chinese = [name for name in names(PAGES) if name.startswith("zh/")]
    assert chinese == sorted(f"zh/{name}" for name in ["index.md", *ENGLISH])
    shown = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    assert set(shown) == MADE | set(names(PAGES))


def sections(path):
    """A page from heading to heading, without its words: what a translation has to have in common with it."""
    found = []
    fenced, above = False, ""
    for line in re.sub(r"\]\([^)]*\)|https?:\S+", "]", path.read_text("utf-8")).splitlines():
        # In a paragraph, what is indented goes on with a list's item.
        indented = line.startswith("    ") and (above == "" or above.startswith("    "))
        above = line if indented or not line.startswith("    ") else "text"
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or indented:
            # As far as a comment, or what stands beside it in a column.
            found[-1]["code"].append(re.split(r"(?:^| )#|//|\s{2,}", line.strip())[0])
        else:
            if line.startswith("#"):
                found.append({"heading": line, "code": [], "tables": [], "prose": ""})
            if line.startswith(("| ", "|-")):
                found[-1]["tables"].append(sorted(re.findall(NUMBER, line)))
            found[-1]["prose"] += line + " "
    return [
        {
            "level": len(part["heading"].split()[0]),
            "code": part["code"],
            "tables": part["tables"],
            "names": {" ".join(name.split()) for name in re.findall(r"`([^`]+)`", part["prose"])},
            "figures": set(re.findall(NUMBER, re.sub(r"`[^`]+`|<!--.*?-->", "", part["prose"]))),
            "filled in": re.findall(r"<!-- (?!end).*?-->", part["prose"]),
        }
        for part in found
    ]


@pytest.mark.parametrize("page", ["index.md", *ENGLISH])
def test_a_chinese_page_holds_what_the_english_one_holds(page):
    """Headings, code, names and figures: who changes a figure in one language has to change it in the other."""
    chinese, original = sections(DOCS / "zh" / page), sections(english(page))
    assert [part["level"] for part in chinese] == [part["level"] for part in original]
    for number, (ours, theirs) in enumerate(zip(chinese, original, strict=True), 1):
        for what in theirs:
            assert ours[what] == theirs[what], f"{page}, heading {number}: {what}"


def test_every_command_is_documented():
    text = (DOCS / "commands.md").read_text("utf-8")
    for command in app.registered_commands:
        assert f"`{command.name or command.callback.__name__}" in text
