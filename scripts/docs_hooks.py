"""What mkdocs makes that no file in docs/ holds: the home page from README.md, and a page an operator.

An operator's page is its docstring, the kernels' files and the medians of the result files: nothing is typed twice.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
OPS = ROOT / "fastcnn" / "ops"
# Where an operator's folder has another name.
FOLDERS = {"max_pool2d": "pool", "avg_pool2d": "pool", "adaptive_avg_pool2d": "pool", "local_response_norm": "lrn"}


def _public() -> list[str]:
    """fastcnn.functional.__all__, read without torch."""
    for node in ast.parse((ROOT / "fastcnn" / "functional.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    raise ValueError("fastcnn/functional.py has no __all__")


# A page, the folder of its sources, the function that documents it.
OPERATORS = {name: (FOLDERS.get(name, name), name) for name in _public() if (OPS / FOLDERS.get(name, name)).is_dir()}
KINDS = (("_cpu.cpp", "CPU, C++"), ("_cuda.cu", "NVIDIA GPU, CUDA C++"), ("triton_kernels.py", "NVIDIA GPU, Triton"))


def on_config(config: Any) -> Any:
    for entry in config.nav:
        if "Operators" in entry:
            entry["Operators"] = ["operators/index.md", *(f"operators/{name}.md" for name in OPERATORS)]
    return config


def on_files(files: Files, config: Any) -> Files:
    generated = {"index.md": _home(), "operators/index.md": _operators()}
    generated |= {f"operators/{name}.md": _operator(name) for name in OPERATORS}
    for path in (ROOT / "results/claims").glob("*.png"):
        files.append(File.generated(config, f"results/claims/{path.name}", content=path.read_bytes()))
    for path, text in generated.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    markdown = markdown.replace("](../README.md", "](index.md").replace("](../results/", "](results/")
    # What is on no page of the site is named by its path alone.
    return re.sub(r"\[([^\]]+)\]\(\.\./(?!\.\.)[^)]*\)", r"\1", markdown)


def _home() -> str:
    text = (ROOT / "README.md").read_text()
    text = text.replace("](docs/", "](")
    return re.sub(r"\[([^\]]+)\]\((?!https?:|#)([A-Z][A-Za-z]+|CONTRIBUTING\.md|CHANGELOG\.md)\)", r"\1", text)


def _operators() -> str:
    lines = [f"- [`{name}`]({name}.md)" for name in OPERATORS]
    return "# Operators\n\nA page each: formula, shapes, kernels, figures.\n\n" + "\n".join(lines) + "\n"


def _operator(name: str) -> str:
    folder, function = OPERATORS[name]
    parts = [f"# {name}\n\n## Formula and shapes\n\n::: fastcnn.functional.{function}\n", "## Kernels\n"]
    sources = sorted((*(ROOT / "csrc/ops" / folder).iterdir(), *(ROOT / "fastcnn/ops" / folder).iterdir()))
    for ending, kind in KINDS:
        found = [path.relative_to(ROOT).as_posix() for path in sources if path.name.endswith(ending)]
        if found:
            parts.append(f"- {kind}: " + ", ".join(f"`{path}`" for path in found))
    parts.append("- PyTorch's own operators, to compare: backend `reference`\n")
    parts.append("## Figures\n")
    tables = [table for path in sorted((ROOT / "results").glob("*.json")) if (table := _figures(path, name))]
    parts += tables or ["Not in a result file yet."]
    return "\n".join(parts) + "\n"


def _figures(path: Path, name: str) -> str:
    """Medians in microseconds, fastcnn's and PyTorch's, of one device."""
    data = json.loads(path.read_text())
    cases: dict[str, dict[str, float]] = {}
    device = ""
    for row in data.get("benchmarks", []):
        info = row["extra_info"]
        if info["kind"] == "op" and info["subject"] == name:
            device = f"{info['device_name']}, {info['threads']} threads"
            case = f"{info['label']}, batch {info['batch']}, {info['dtype']}"
            cases.setdefault(case, {})[info["contender"]] = 1e6 * row["stats"]["median"]
    lines = [
        f"| {case} | {times['fastcnn']:.1f} | {times['eager']:.1f} | {times['eager'] / times['fastcnn']:.2f} |"
        for case, times in cases.items()
        if {"fastcnn", "eager"} <= times.keys()
    ]
    if not lines:
        return ""
    head = "| case | fastcnn, us | PyTorch, us | PyTorch / fastcnn |\n|---|--:|--:|--:|\n"
    return f"{device} (`results/{path.name}`)\n\n{head}" + "\n".join(lines) + "\n"
