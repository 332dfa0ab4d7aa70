"""The types of the native extension are those of the one that was built."""

import ast
import runpy
from pathlib import Path

from fastcnn import _C

ROOT = Path(__file__).parents[1]


def parts(source):
    """{name: code without its layout}"""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and (about := ast.get_docstring(node)):
            node.body[0].value.value = about  # without the indentation of its lines
    return {getattr(part, "name", f"line {i}"): ast.unparse(part) for i, part in enumerate(tree.body)}


def test_the_stub_is_the_extension():
    stub = runpy.run_path(str(ROOT / "scripts" / "stub.py"))["stub"]
    committed, built = parts((ROOT / "fastcnn" / "_C.pyi").read_text("utf-8")), parts(stub(_C))
    if not hasattr(_C, "cuda"):
        assert committed.pop("cuda")
    for name in sorted({*committed, *built}):
        assert committed.get(name) == built.get(name), f"{name}: python scripts/stub.py writes fastcnn/_C.pyi"
