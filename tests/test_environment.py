"""docs/environment.md lists what the code reads from the environment, and nothing else."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
READS = re.compile(r"""(?:environ(?:\.get\(|\[)|getenv\()["'](\w+)["']""")


def test_every_variable_is_documented():
    sources = [ROOT / "setup.py", *(ROOT / "fastcnn").rglob("*.py"), *(ROOT / "csrc").rglob("*.[ch]*")]
    read = {name for path in sources for name in READS.findall(path.read_text())}
    documented = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "environment.md").read_text(), re.MULTILINE))
    assert {"FASTCNN_BACKEND", "FASTCNN_CPU_ISA", "FASTCNN_CUDA"} <= read  # the search finds Python's and C++'s
    assert documented == read
