"""Builds fastcnn._C with CMake. Everything else about the package is in pyproject.toml.

Environment:
  FASTCNN_CUDA        unset: CUDA kernels where nvcc is found; 1: demand them; 0: leave them out
  FASTCNN_CUDA_ARCHS  semicolon-separated CUDA architectures, e.g. "80;90a"; "120-virtual" is PTX
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
# cmake and ninja come as Python packages; an environment that is used but not activated is not on PATH.
os.environ["PATH"] = sysconfig.get_path("scripts") + os.pathsep + os.environ["PATH"]


def missing_tools() -> str | None:
    """Why nothing can be built here, in one sentence: CMake's own report of a missing compiler has twenty lines."""
    if sys.platform == "win32":
        return "Windows is not supported; the Windows Subsystem for Linux is"
    if not os.environ.get("CXX") and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        return (
            "a C++ compiler is needed and none was found: apt-get install g++ (Debian, Ubuntu), "
            "dnf install gcc-c++ (Fedora) or xcode-select --install (macOS) brings one, or set CXX"
        )
    return None


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        if reason := missing_tools():
            raise SystemExit(f"fastcnn: {reason}")
        output = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"
        build.mkdir(parents=True, exist_ok=True)
        cuda = {"1": "ON", "0": "OFF"}.get(os.environ.get("FASTCNN_CUDA", ""), "AUTO")
        configure = [
            "cmake",
            f"-S{ROOT / 'csrc'}",
            f"-B{build}",
            "-GNinja",
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DFASTCNN_CUDA_ARCHS={os.environ.get('FASTCNN_CUDA_ARCHS', '')}",
            f"-DFASTCNN_VERSION={self.distribution.get_version()}",
            f"-DCMAKE_MAKE_PROGRAM={shutil.which('ninja')}",
            f"-DFASTCNN_OUTPUT={output}",
        ]
        try:
            try:
                make(build, [*configure, f"-DFASTCNN_CUDA={cuda}", f"-DFASTCNN_CUDA_LEFT_OUT={LEFT_OUT}"])
            except subprocess.CalledProcessError:
                if cuda != "AUTO":
                    raise
                # An nvcc that happens to be there must not cost the user the CPU kernels.
                print(f"fastcnn: {FAILED}, so the extension has no CUDA kernels", file=sys.stderr)
                make(build, [*configure, "-DFASTCNN_CUDA=OFF", f"-DFASTCNN_CUDA_LEFT_OUT=left out: {FAILED}"])
        except subprocess.CalledProcessError as error:
            # CMake has already printed the one sentence that matters; a Python traceback would bury it.
            raise SystemExit(f"fastcnn: building the native extension failed: {error}") from None


# What `python -m fastcnn info` says of CUDA kernels that are not there.
LEFT_OUT = "left out: FASTCNN_CUDA=0"
FAILED = "building with nvcc failed (FASTCNN_CUDA=1 makes that an error)"


def make(build: Path, configure: list[str]) -> None:
    subprocess.run(configure, check=True)
    subprocess.run(["cmake", "--build", build], check=True)


setup(ext_modules=[Extension("fastcnn._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
