"""What is shipped: the source distribution builds, its wheel installs into an empty environment and runs there."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILT = shutil.ignore_patterns("*.so", "__pycache__")

# Run where the checkout is not: what it imports is what was installed.
TRIAL = """
import sys, sysconfig
import torch
import fastcnn
from fastcnn import functional as F, models

assert fastcnn.__file__.startswith(sysconfig.get_path("purelib")), fastcnn.__file__
print(fastcnn.__version__)
x = torch.randn(2, 5, 19, 23)
weight = torch.randn(7, 5, 3, 3)
with fastcnn.use_backend("cpu"):
    y = F.conv2d(x, weight, padding=1)
expected = torch.nn.functional.conv2d(x.double(), weight.double(), padding=1)
assert (y - expected).abs().max() < 1e-4
network = models.lenet5("modern").eval()
digits = torch.randn(3, 1, 32, 32)
with torch.inference_mode():
    assert (fastcnn.optimize(network)(digits) - network(digits)).abs().max() < 1e-4
"""


def run(*command, **options):
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    assert result.returncode == 0, f"{command}: {result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    return result.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """Built from a copy: setuptools would otherwise add whatever an older list of sources in the checkout names."""
    tree = tmp_path_factory.mktemp("source") / "fastcnn"
    for folder in ("fastcnn", "csrc"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=BUILT)
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    made = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-c", f"from setuptools import build_meta; build_meta.build_sdist({str(made)!r})", cwd=tree)
    (archive,) = made.iterdir()
    return archive


def files_of(folder):
    return {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*") if path.is_file()}


def test_the_source_distribution_holds_every_source(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    package = {name for name in files_of("fastcnn") if name.endswith((".py", ".pyi", ".json", "py.typed"))}
    assert (files_of("csrc") | package | {"LICENSE", "README.md", "pyproject.toml", "setup.py"}) <= names


@pytest.mark.slow
def test_the_wheel_of_the_source_distribution_runs_in_an_empty_environment(sdist, tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"FASTCNN_CUDA": "0"}
    pip = ("-m", "pip", "--quiet", "--disable-pip-version-check")
    wheel = ("wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", tmp_path / "wheels", sdist)
    run(sys.executable, *pip, *wheel, cwd=tmp_path, env=environment)
    (built,) = (tmp_path / "wheels").iterdir()
    names = zipfile.ZipFile(built).namelist()
    assert any(name.startswith("fastcnn/_C.") for name in names)
    assert not any(name.startswith(("csrc", "tests", "benchmarks")) for name in names)

    venv.create(tmp_path / "empty", with_pip=True)
    python = tmp_path / "empty/bin/python"
    run(python, *pip, "install", "--no-deps", "--no-index", built, cwd=tmp_path, env=environment)
    # torch and the other dependencies are those of this environment, at the end of the path; an editable fastcnn
    # beside them stays out of sight, because files that end in .pth are not read there.
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", env=environment).strip()
    # A statement, not the path itself, which Python reads as ASCII in the C locale.
    dependencies = f"import sys; sys.path.append({sysconfig.get_path('purelib')!a})\n"
    (Path(site) / "dependencies.pth").write_text(dependencies)
    version = run(python, "-c", TRIAL, cwd=tmp_path, env=environment).strip()
    assert built.name.startswith(f"fastcnn-{version}-")
    assert "none visible" in run(tmp_path / "empty/bin/fastcnn", "info", cwd=tmp_path, env=environment)
