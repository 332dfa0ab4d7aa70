"""What nvcc made of the kernels: registers, spills, tensor-core instructions. Read from the built extension."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from fastcnn.core import native

ROOT = Path(__file__).parents[2]


CARDS = runpy.run_path(str(ROOT / "scripts" / "cards.py"))
CUOBJDUMP = CARDS["cuobjdump"]()

if native.unavailable is not None or not hasattr(native.extension, "cuda"):
    pytest.skip("fastcnn was built without CUDA kernels", allow_module_level=True)
if CUOBJDUMP is None:
    pytest.skip("neither the CUDA toolkit nor triton offers cuobjdump", allow_module_level=True)

ARCHITECTURES = [f"sm_{a}" for a in native.extension.cuda.architectures if not a.endswith("-virtual")]


@cache
def kernels() -> dict[tuple[str, str], dict[str, int]]:
    """(architecture, mangled name) -> what it uses: REG, STACK, SHARED, LOCAL."""
    return CARDS["usage"](native.extension.__file__)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_has_every_kernel(architecture):
    names = " ".join(name for arch, name in kernels() if arch == architecture)
    for kernel in ("lrn_kernel", "lrn_max_pool_kernel", "pool2d_kernel", "adaptive_avg_pool2d_kernel", "rbf_kernel",
                   "subsample2d_kernel", "copy_slice_kernel", "add_relu_kernel", "conv2d_sm80_kernel",
                   "conv2d_reduce_kernel", "conv2d_max_pool2d_kernel"):  # fmt: skip
        assert kernel in names, f"{kernel} is missing for {architecture}"
    for kernel in ("conv2d_sm90_kernel", "conv2d_sm90_resident_kernel"):
        assert (kernel in names) == (architecture == "sm_90a")


def test_nothing_spills():
    spilling = {key: use for key, use in kernels().items() if use["LOCAL"] or use["STACK"]}
    assert not spilling, spilling


def test_registers_let_a_block_run():
    """A multiprocessor has 65,536 registers; a block that needs more fails at its launch, on hardware alone."""
    for (architecture, name), use in kernels().items():
        threads = 384 if "sm90" in name else 256
        assert use["REG"] * threads <= 65536, (architecture, name, use)


def sass(architecture: str, fragment: str, folder: Path) -> str:
    """The machine code of the first kernel whose name contains the fragment."""
    name = next(name for arch, name in sorted(kernels()) if arch == architecture and fragment in name)
    subprocess.run(
        [CUOBJDUMP, "--extract-elf", architecture, native.extension.__file__], check=True, cwd=folder,
        capture_output=True,
    )  # fmt: skip
    for cubin in sorted(folder.glob("*.cubin")):
        if name.encode() in cubin.read_bytes():
            command = [CUOBJDUMP, "--dump-sass", "--function", name, cubin]
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    raise AssertionError(f"{name} is in no cubin of {architecture}")


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["6__half", "13__nv_bfloat16", "f"])
def test_tensor_cores_and_asynchronous_copies(architecture, dtype, tmp_path):
    code = sass(architecture, f"conv2d_sm80_kernelI{dtype}NS0_8Sm80TileILi64ELi64ELi2ELi2ELi4EEELb0E", tmp_path)
    assert "HMMA" in code
    assert "LDGSTS" in code
    assert "LDSM" in code


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["6__half", "13__nv_bfloat16", "f"])
def test_the_stem_multiplies_on_tensor_cores(architecture, dtype, tmp_path):
    code = sass(architecture, f"conv2d_max_pool2d_kernelI{dtype}Lb0E", tmp_path)
    for instruction in ("HMMA", "LDGSTS", "LDS.64", "STG.E.128"):
        assert instruction in code, instruction


@pytest.mark.slow
@pytest.mark.skipif("sm_90a" not in ARCHITECTURES, reason="built without sm_90a")
@pytest.mark.parametrize(
    "kernel",
    ["conv2d_sm90_kernelI6__halfLi64E", "conv2d_sm90_kernelI13__nv_bfloat16Li64E", "conv2d_sm90_kernelIfLi64E",
     "conv2d_sm90_resident_kernelI6__half", "conv2d_sm90_resident_kernelI13__nv_bfloat16"],
)  # fmt: skip
def test_hopper_instructions(kernel, tmp_path):
    code = sass("sm_90a", kernel, tmp_path)
    for instruction in ("HGMMA", "UTMALDG", "UTMASTG", "USETMAXREG", "SYNCS"):
        assert instruction in code, instruction


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc was not found")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_wgmma_is_not_serialised(dtype, tmp_path):
    """ptxas says (C7510 and its neighbours) when it must wait after each wgmma: several times slower, never wrong."""
    source = ROOT / "csrc" / "ops" / "conv2d" / f"conv2d_sm90_{dtype}_cuda.cu"
    result = subprocess.run(
        ["nvcc", "-std=c++17", "-O3", f"-I{ROOT / 'csrc'}", "-gencode", "arch=compute_90a,code=sm_90a",
         "-Xptxas=-warn-spills", "-c", source, "-o", tmp_path / "out.o"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert not re.search(r"C75\d\d|spill|serializ", result.stdout + result.stderr), result.stderr
