"""What the build says when it cannot do what was demanded, and what the package says about itself."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pybind11
import pytest

ROOT = Path(__file__).parents[1]


def configure(folder, cuda, path):
    """Configures the extension as setup.py does, with the given PATH; cmake and ninja are named by their place."""
    scripts = sysconfig.get_path("scripts")
    cmake, ninja = (shutil.which(tool, path=scripts + os.pathsep + os.environ["PATH"]) for tool in ("cmake", "ninja"))
    assert cmake
    assert ninja
    command = [cmake, f"-S{ROOT / 'csrc'}", f"-B{folder}", "-GNinja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    command += [f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"]
    told = ("CUDACXX", "CUDA_PATH", "CUDA_HOME", "CMAKE_CXX_COMPILER_LAUNCHER", "CMAKE_CUDA_COMPILER_LAUNCHER")
    environment = {k: v for k, v in os.environ.items() if k not in told}
    return subprocess.run(
        [*command, f"-DFASTCNN_CUDA={cuda}"], env={**environment, "PATH": path}, capture_output=True, text=True
    )


@pytest.fixture
def path_without_nvcc(tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("c++", "g++", "gcc", "cc", "as", "ld", "ar", "ranlib", "uname", "sh"):
        if found := shutil.which(tool):
            (folder / tool).symlink_to(found)
    return str(folder)


def test_demanding_cuda_without_nvcc_is_one_clear_sentence(tmp_path, path_without_nvcc):
    result = configure(tmp_path / "build", "ON", path_without_nvcc)
    assert result.returncode != 0
    assert "FASTCNN_CUDA=1 demands CUDA kernels, but nvcc was not found" in " ".join(result.stderr.split())


def test_without_nvcc_the_cuda_kernels_are_left_out(tmp_path, path_without_nvcc):
    result = configure(tmp_path / "build", "AUTO", path_without_nvcc)
    assert result.returncode == 0, result.stderr


def cli(*arguments):
    result = subprocess.run([sys.executable, "-m", "fastcnn", *arguments], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_info_says_what_is_here_and_why_the_rest_is_not():
    text = cli("info")
    for word in ("torch", "CPU instruction set", "CUDA kernels", "GPUs"):
        assert word in text


def test_kernels_lists_every_candidate():
    rows = json.loads(cli("kernels", "--json"))
    assert {row["op"] for row in rows} >= {"conv2d", "local_response_norm", "max_pool2d", "linear", "rbf", "concat"}
    for row in rows:
        assert set(row) >= {"op", "backend", "name", "dtypes", "architectures", "verified"}
        if row["backend"] in ("cuda", "triton"):  # a build without nvcc has CUDA candidates for no architecture
            assert all(name.startswith(("sm_", "compute_")) for name in row["architectures"])  # cubins, PTX


def test_without_a_compiler_the_build_says_what_to_install(tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "CXX"} | {"PATH": str(tmp_path)}
    command = [sys.executable, "setup.py", "build_ext", "--build-lib", str(tmp_path / "lib")]
    result = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode != 0
    assert result.stderr.strip().startswith("fastcnn: a C++ compiler is needed and none was found: apt-get install g++")
    assert len(result.stderr.strip().splitlines()) == 1


def test_workflows_run_make_targets_that_exist():
    yaml = pytest.importorskip("yaml")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    used = set()
    for path in (ROOT / ".github/workflows").glob("*.yml"):
        for name, job in yaml.safe_load(path.read_text("utf-8"))["jobs"].items():
            commands = [step["run"] for step in job["steps"] if "run" in step]
            assert commands, f"{path.name}: {name} runs nothing"
            used |= {command.split()[1] for command in commands if command.startswith("make ")}
    assert used >= {"lint", "test", "slow", "docs", "dist", "wheels"}
    assert used <= targets
