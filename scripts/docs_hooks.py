"""What mkdocs makes that no file in docs/ holds: the home page from README.md, and a page an operator in each language.

An operator's page is its docstring, the kernels' files and the medians of the result files: nothing is typed twice.
The Chinese pages, docs/zh, are a tree of their own: each language shows its own navigation, and leads to the same page
in the other.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation

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
CHINESE = {
    "Operators": "算子",
    "A page each: formula, shapes, kernels, figures.": "每个算子一页：公式、形状、内核、数据。",
    "Formula and shapes": "公式与形状",
    "Kernels": "内核",
    "PyTorch's own operators, to compare: backend": "用于对照的 PyTorch 自身算子：后端",
    "Figures": "数据",
    "Not in a result file yet.": "结果文件中尚无数据。",
    "case": "用例",
    "threads": "线程",
    "The largest relative L2 error against float64 over the test cases.": "测试用例上相对 float64 的最大 L2 相对误差。",
    "kernel": "内核",
    "found": "得自",
    "on hardware": "硬件验证",
    "not yet run on hardware": "尚未在硬件上运行",
    "run": "运行",
    "interpreted": "解释器",
    "emulated": "模拟器",
    "function": "函数",
    "compiler": "编译器",
    "compiled for": "编译目标",
    "binaries": "二进制数",
    "registers": "寄存器",
    "bytes spilled": "溢出字节",
    "shared, KiB": "共享内存，KiB",
}


def _english(text: str) -> str:
    return text


def _chinese(text: str) -> str:
    return CHINESE.get(text, text)


Say = Callable[[str], str]
LANGUAGES = (("", _english), ("zh/", _chinese))


def on_config(config: Any) -> Any:
    for entries, folder, title in ((config.nav, "", "Operators"), (config.nav[-1]["中文"], "zh/", "算子")):
        [section] = (entry for entry in entries if title in entry)
        section[title] = [f"{folder}operators/{page}.md" for page in ("index", *OPERATORS)]
    return config


def on_nav(nav: Navigation, config: Any, files: Files) -> Navigation:
    *english, chinese = nav.items
    # The reference from docstrings is the same in both.
    api = [item for item in english if item.title == "API"]
    trees = {"en": Navigation(english, nav.pages), "zh": Navigation([*chinese.children, *api], nav.pages)}
    trees["zh"].homepage = chinese.children[0]
    config.extra["trees"] = trees
    return nav


def on_page_context(context: Any, page: Any, config: Any, nav: Navigation) -> Any:
    language = "zh" if page.file.src_uri.startswith("zh/") else "en"
    english = page.file.src_uri.removeprefix("zh/")
    urls = {other.file.src_uri: other.url for other in nav.pages}
    config.theme["language"] = language
    config.extra["alternate"] = [
        {"name": "English", "lang": "en", "link": urls.get(english, "./")},
        {"name": "中文", "lang": "zh", "link": urls.get(f"zh/{english}", "zh/")},
    ]
    context["nav"] = config.extra["trees"][language]
    return context


def on_files(files: Files, config: Any) -> Files:
    generated = {"index.md": _home()}
    for folder, say in LANGUAGES:
        generated[f"{folder}operators/index.md"] = _operators(say)
        generated |= {f"{folder}operators/{name}.md": _operator(name, say) for name in OPERATORS}
    for path in (ROOT / "results/claims").glob("*.png"):
        files.append(File.generated(config, f"results/claims/{path.name}", content=path.read_bytes()))
    for path, text in generated.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    # From docs/PAGE and docs/zh/PAGE to what docs/ does not hold.
    markdown = markdown.replace("](../README.md", "](index.md").replace("](../results/", "](results/")
    return markdown.replace("](../../results/", "](../results/")


def _home() -> str:
    text = (ROOT / "README.md").read_text()
    text = text.replace("](docs/", "](")
    return re.sub(r"\[([^\]]+)\]\((?!https?:|#)([A-Z][A-Za-z]+|CONTRIBUTING\.md|CHANGELOG\.md)\)", r"\1", text)


def _operators(say: Say) -> str:
    lines = [f"- [`{name}`]({name}.md)" for name in OPERATORS]
    about = say("A page each: formula, shapes, kernels, figures.")
    return f"# {say('Operators')}\n\n{about}\n\n" + "\n".join(lines) + "\n"


def _operator(name: str, say: Say) -> str:
    folder, function = OPERATORS[name]
    parts = [f"# {name}\n\n## {say('Formula and shapes')}\n\n::: fastcnn.functional.{function}\n"]
    parts.append(f"## {say('Kernels')}\n")
    sources = sorted((*(ROOT / "csrc/ops" / folder).iterdir(), *(ROOT / "fastcnn/ops" / folder).iterdir()))
    for ending, kind in KINDS:
        found = [path.relative_to(ROOT).as_posix() for path in sources if path.name.endswith(ending)]
        if found:
            parts.append(f"- {kind}: " + ", ".join(f"`{path}`" for path in found))
    reference = say("PyTorch's own operators, to compare: backend")
    parts.append(f"- {reference} `reference`\n")
    parts += [_errors(name, say), _machine_code(folder, say)]
    parts.append(f"## {say('Figures')}\n")
    tables = [table for path in sorted((ROOT / "results").glob("*.json")) if (table := _figures(path, name, say))]
    parts += tables or [say("Not in a result file yet.")]
    return "\n".join(parts) + "\n"


@cache
def _cards(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "results" / "kernels" / f"{name}.json").read_text())


def _errors(name: str, say: Say) -> str:
    """The largest relative errors of an operator's kernels against float64, and where hardware verified them."""
    ledger = json.loads((ROOT / "fastcnn/tuning/ledger.json").read_text())["entries"]
    found: dict[str, dict[str, float | None]] = {}
    how: dict[str, str] = {}
    for row in _cards("errors")["rows"]:
        if row["kernel"].startswith(f"{name}."):
            found.setdefault(row["kernel"], {})[row["dtype"]] = row["error"]
            how[row["kernel"]] = row["how"]
    dtypes = [d for d in ("float32", "tf32", "float16", "bfloat16") if any(d in each for each in found.values())]
    lines = [f"| {say('kernel')} | {' | '.join(dtypes)} | {say('found')} | {say('on hardware')} |",
             f"|---|{'--:|' * len(dtypes)}---|---|"]  # fmt: skip
    for kernel, errors in found.items():
        devices = sorted({entry["device"] for entry in ledger if entry["kernel"] == kernel and not entry["failed"]})
        verified = "-" if how[kernel] == "run" else ", ".join(devices) or say("not yet run on hardware")
        cells = ("" if errors.get(d) is None else f"{errors[d]:.1e}" for d in dtypes)
        lines.append(f"| {kernel.partition('.')[2]} | {' | '.join(cells)} | {say(how[kernel])} | {verified} |")
    about = say("The largest relative L2 error against float64 over the test cases.")
    return f"{about}\n\n" + "\n".join(lines) + "\n"


def _machine_code(folder: str, say: Say) -> str:
    """What the compilers made of the folder's GPU kernels: over all architectures and variants, a line a kernel."""
    sources = "".join(
        path.read_text()
        for root in ("csrc/ops", "fastcnn/ops")
        for path in sorted((ROOT / root / folder).iterdir())
        if path.name.endswith((".cu", ".h", "triton_kernels.py"))
    )
    lines = []
    for backend in ("cuda", "triton"):
        compiler, functions = _cards(backend)["compiler"], {}
        for row in _cards(backend)["rows"]:
            if re.search(rf"\b{row['function']}\(", sources):
                functions.setdefault(row["function"], []).append(row)
        for function, rows in functions.items():
            registers = [row["registers"] for row in rows]
            built = sorted({row["architecture"] for row in rows}, key=lambda name: int(re.sub(r"\D", "", name)))
            lines.append(
                f"| `{function}` | {compiler} | {', '.join(built)} | {len(rows)} | {min(registers)}-{max(registers)} "
                f"| {max(row['spilled'] for row in rows)} | {max(row['shared'] for row in rows) / 1024:.0f} |"
            )
    if not lines:
        return ""
    head = "| " + " | ".join(
        map(say, ("function", "compiler", "compiled for", "binaries", "registers", "bytes spilled", "shared, KiB"))
    )
    return f"{head} |\n|---|---|---|--:|--:|--:|--:|\n" + "\n".join(lines) + "\n"


def _figures(path: Path, name: str, say: Say) -> str:
    """Medians in microseconds, fastcnn's and PyTorch's, of one device."""
    data = json.loads(path.read_text())
    cases: dict[str, dict[str, float]] = {}
    device = ""
    for row in data.get("benchmarks", []):
        info = row["extra_info"]
        if info["kind"] == "op" and info["subject"] == name:
            device = f"{info['device_name']}, {info['threads']} {say('threads')}"
            case = f"{info['label']}, batch {info['batch']}, {info['dtype']}"
            cases.setdefault(case, {})[info["contender"]] = 1e6 * row["stats"]["median"]
    lines = [
        f"| {case} | {times['fastcnn']:.1f} | {times['eager']:.1f} | {times['eager'] / times['fastcnn']:.2f} |"
        for case, times in cases.items()
        if {"fastcnn", "eager"} <= times.keys()
    ]
    if not lines:
        return ""
    head = f"| {say('case')} | fastcnn, us | PyTorch, us | PyTorch / fastcnn |\n|---|--:|--:|--:|\n"
    return f"{device} (`results/{path.name}`)\n\n{head}" + "\n".join(lines) + "\n"
