"""Result files are written one row a line, so that a change of a row is a change of a line."""

import json
from pathlib import Path

import pytest

from fastcnn.core.files import rows_as_json

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "results").rglob("*.json"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_files_are_as_they_would_be_written(file):
    text = file.read_text()
    assert len(text.splitlines()) < 1000
    assert rows_as_json(json.loads(text)) == text


def test_a_row_is_a_line():
    data = {"device": {"name": "x", "threads": 2}, "rows": [{"a": [1, 2]}, {"b": {"c": None}}], "none": [], "text": "é"}
    text = rows_as_json(data)
    assert json.loads(text) == data
    assert [line.strip() for line in text.splitlines()] == [
        "{", '"device": {"name": "x", "threads": 2},', '"rows": [', '{"a": [1, 2]},', '{"b": {"c": null}}', "],",
        '"none": [],', '"text": "\\u00e9"', "}",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="not JSON compliant"):
        rows_as_json({"error": float("nan")})
