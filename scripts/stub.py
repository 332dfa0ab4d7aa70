"""Writes fastcnn/_C.pyi, the types of the native extension, from the extension itself: python scripts/stub.py

Needs a build with CUDA kernels, or the stub would lack them. pybind11 writes each function's signature into its
docstring; what the extension defines without pybind11 (csrc/python/call.cpp) keeps to the same form.
"""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

STUB = Path(__file__).parents[1] / "fastcnn" / "_C.pyi"
HEADER = '''"""Written by scripts/stub.py, and compared with the built extension by tests/test_stub.py.

`cpu` and `cuda` are modules inside the extension; one stub file cannot say so, and has classes instead. `cuda` is only
there where the extension was built with CUDA kernels.
"""
from collections.abc import Sequence
from typing import Any, ClassVar, overload

from torch import Tensor
'''
# pybind11's words for a type, and Python's; those of another version of it among them.
TYPES = (
    (r"typing\.SupportsInt( \| typing\.SupportsIndex)?", "int"),
    (r"typing\.SupportsFloat( \| typing\.SupportsIndex)?", "float"),
    (r"collections\.abc\.", ""),
    (r"\bList\[", "list["),
    (r"\bTuple\[", "tuple["),
    (r"\bDict\[", "dict["),
    (r"fastcnn\._C\.|fastcnn::(cuda::)?", ""),
    (r"\b(dict|list)(?![\w\[])", r"\1[\1]"),
    (r"dict\[dict\]", "dict[str, Any]"),
    (r"list\[list\]", "list[Any]"),
    (r"\btuple(?![\w\[])", "tuple[Any, ...]"),
    (r" = <[^>]*>", " = ..."),
)


def in_python(text: str) -> str:
    for pattern, replacement in TYPES:
        text = re.sub(pattern, replacement, text)
    return text


def functions(doc: str, method: bool) -> list[ast.FunctionDef]:
    """The definitions that a docstring is about: one, or those of an overloaded function."""
    overloads = re.findall(r"^\d+\. (.*)$", doc, re.MULTILINE) if "\nOverloaded function." in doc else []
    found = [function(signature, method) for signature in overloads] or [function(doc, method)]
    for overload in found if overloads else []:
        overload.decorator_list = [ast.Name("overload")]
    return found


def function(doc: str, method: bool) -> ast.FunctionDef:
    """The definition that a docstring begins with, the rest of the docstring in it."""
    signature, _, about = doc.partition("\n")
    (found,) = ast.parse(f"def {in_python(signature)}: ...").body
    assert isinstance(found, ast.FunctionDef)
    arguments = found.args
    if method:
        arguments.args[0].annotation = None
    unnamed = [a for a in arguments.args if re.fullmatch(r"self|arg\d+", a.arg)]
    if any(a.arg != "self" for a in unnamed):
        arguments.posonlyargs, arguments.args = unnamed, arguments.args[len(unnamed) :]
    if arguments.vararg:
        arguments.vararg.annotation = ast.Name("object")
    if about.strip():
        found.body = [ast.Expr(ast.Constant(about.strip()))]
    return found


def attribute(name: str, kind: str) -> ast.stmt:
    return ast.AnnAssign(ast.Name(name), ast.Name(in_python(kind)), simple=1)


def methods(cls: type) -> Iterator[ast.stmt]:
    members = getattr(cls, "__members__", None)
    for name, value in vars(cls).items():
        if members and name in members:
            yield attribute(name, f"ClassVar[{cls.__module__}.{cls.__qualname__}]")
        elif isinstance(value, property) and not name.startswith("_"):
            kind = (value.fget.__doc__ or "").strip().splitlines()[0].partition(" -> ")[2]
            if value.fset:
                yield attribute(name, kind)
            else:
                (getter,) = ast.parse(f"@property\ndef {name}(self) -> {in_python(kind)}: ...").body
                yield getter
        elif name == "__init__" or (callable(value) and not name.startswith("_")):
            yield from functions(value.__doc__, method=True)
        elif name == "__call__":
            yield function(CALL, method=True)


# The one type that is not pybind11's: its call takes as many tensors as the kernel has.
CALL = "__call__(self, *tensors_and_output: object) -> Tensor"


def definitions(module: ModuleType) -> Iterator[ast.stmt]:
    for name, value in sorted(vars(module).items(), key=lambda item: (isinstance(item[1], ModuleType), item[0])):
        if name.startswith("_"):
            continue
        if isinstance(value, ModuleType):
            body = list(definitions(value))
            for part in body:
                if isinstance(part, ast.FunctionDef):
                    part.decorator_list.append(ast.Name("staticmethod"))
            yield ast.ClassDef(name, [], [], body, [])
        elif isinstance(value, type):
            yield ast.ClassDef(name, [], [], list(methods(value)) or [ast.Expr(ast.Constant(...))], [])
        elif callable(value):
            yield from functions(value.__doc__ or "", method=False)
        else:
            yield attribute(name, "list[str]" if isinstance(value, list) else type(value).__name__)


def stub(extension: Any) -> str:
    tree = ast.Module([*ast.parse(HEADER).body, *definitions(extension)], [])
    return ast.unparse(ast.fix_missing_locations(tree))


if __name__ == "__main__":
    sys.path.insert(0, str(STUB.parents[1]))
    extension = importlib.import_module("fastcnn._C")
    if not hasattr(extension, "cuda"):
        sys.exit("stub.py: fastcnn was built without CUDA kernels, whose types the stub has too")
    STUB.write_text(stub(extension) + "\n", "utf-8")
    for command in (["check", "--fix", "--select", "I"], ["format"]):
        subprocess.run(["ruff", *command, "-q", STUB], check=True)
