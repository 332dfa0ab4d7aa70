"""The house rules for imports: down only, no circles, nothing of our own imported late.

Read from the source, imports inside functions and under TYPE_CHECKING included, so that none hides.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parents[1] / "fastcnn"

# From the ground up. A module imports from floors below its own and from its own room.
FLOORS = (
    ("_C",),
    ("core",),
    ("backends",),
    ("ops",),
    ("functional",),
    ("nn", "optimize"),
    ("models",),
    ("workbench",),
    ("__init__", "__main__"),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# core is what operators are made of, not a place for other packages.
CORE_MAY_IMPORT = {*sys.stdlib_module_names, "torch", "rich"}
# May load modules of ours when called: each command of the command line pays for its own imports only.
LATE = ("fastcnn/__main__.py",)
# Modules that need a package that may be missing; where they are imported late, they are imported so.
OPTIONAL = ("triton_kernels", "triton_launch", "backends.triton", "triton_cases", "triton_sweep", "figures", "plots")


class Import(NamedTuple):
    """`module` is what was imported, fastcnn.core.layout rather than fastcnn.core where that is a module."""

    line: int
    module: str
    late: bool


def is_module(dotted: str, root: Path) -> bool:
    path = root.joinpath(*dotted.split(".")[1:])
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def imports(path: Path, root: Path) -> Iterator[Import]:
    """Every import of a file."""

    def visit(node: ast.AST, late: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, alias.name, late)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield Import(node.lineno, full if base.startswith("fastcnn") and is_module(full, root) else base, late)
        inside = late or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    yield from visit(ast.parse(path.read_text("utf-8")), False)


def room(dotted: str) -> str:
    """core of fastcnn.core.layout; __init__ of fastcnn itself."""
    return dotted.split(".")[1] if "." in dotted else "__init__"


def name_of(path: Path, root: Path) -> str:
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def broken_rules(root: Path) -> list[str]:
    """file:line: rule, for each import that breaks one."""
    found: list[str] = []
    graph: dict[str, set[str]] = {}
    for path in sorted(root.rglob("*.py")):
        name, file = name_of(path, root), path.relative_to(root.parent).as_posix()
        mine = room(name)
        graph[name] = set()
        for line, module, late in imports(path, root):
            where = f"{file}:{line}:"
            top = module.split(".")[0]
            if top != "fastcnn":
                if mine == "core" and top not in CORE_MAY_IMPORT and top != "__future__":
                    found.append(f"{where} core imports {top}; it has the standard library, torch and rich")
                continue
            theirs = room(module)
            if theirs not in FLOOR or mine not in FLOOR:
                found.append(f"{where} {module} is in no room of FLOORS")
            elif theirs == "__init__" and mine != "__main__":
                found.append(f"{where} imports the package itself; import what is needed from where it is defined")
            elif mine != theirs and FLOOR[mine] <= FLOOR[theirs]:
                found.append(f"{where} {mine} imports {module}, which is not below it")
            elif late and file not in LATE and not any(part in module for part in OPTIONAL):
                found.append(f"{where} {module} is imported inside a function, and needs no optional package")
            if module != name and not name.startswith(module + "."):
                graph[name].add(module)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found.append(f"imports run in a circle: {' -> '.join(error.args[1])}")
    return found


def test_imports_go_down():
    assert broken_rules(PACKAGE) == []


@pytest.mark.parametrize(
    ("file", "code", "rule"),
    [
        ("core/layout.py", "from fastcnn.ops.conv2d import conv2d", "core imports fastcnn.ops.conv2d, which is"),
        ("core/layout.py", "import numpy", "core imports numpy"),
        ("ops/a.py", "def f():\n    from fastcnn import functional", "ops imports fastcnn.functional, which is"),
        ("ops/a.py", "import fastcnn", "imports the package itself"),
        ("nn/a.py", "from fastcnn.optimize import optimize", "nn imports fastcnn.optimize, which is not below"),
        ("models/a.py", "def f():\n    from fastcnn.core import layout", "imported inside a function"),
        ("ops/a.py", "if TYPE_CHECKING:\n    from fastcnn.workbench import demo", "ops imports fastcnn.workbench"),
        ("ops/a.py", "from fastcnn.elsewhere import x", "is in no room"),
        ("ops/a.py", "from fastcnn.ops import b\n", "imports run in a circle"),
    ],
)  # fmt: skip
def test_each_rule_is_seen(tmp_path, file, code, rule):
    root = tmp_path / "fastcnn"
    for path in ("core/layout.py", "ops/__init__.py", "ops/conv2d.py", "functional.py", "optimize/__init__.py",
                 "workbench/demo.py", "ops/a.py", "nn/a.py", "models/a.py"):  # fmt: skip
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("")
    (root / "ops/b.py").write_text("from fastcnn.ops import a\n")
    assert broken_rules(root) == []
    (root / file).write_text(code)
    broken = broken_rules(root)
    assert len(broken) == 1
    assert rule in broken[0]
    assert broken[0].startswith((f"fastcnn/{file}:", "imports run in a circle"))
