"""The kernels' cards are true: results/kernels says what the compilers make of this source."""

import json
import runpy
from pathlib import Path

import pytest

from fastcnn.core import native
from fastcnn.workbench.verify import worker

ROOT = Path(__file__).parents[1]
CARDS = runpy.run_path(str(ROOT / "scripts" / "cards.py"))
CUDA, TRITON, ERRORS = (
    json.loads((ROOT / "results" / "kernels" / f"{name}.json").read_text("utf-8"))
    for name in ("cuda", "triton", "errors")
)
RENEW = "if that was meant, python scripts/cards.py writes results/kernels"


def assert_same(found, committed):
    changed = CARDS["differences"](found, committed)
    assert not changed, "\n".join([*changed[:20], f"{len(changed)} in all; {RENEW}"])


def skip_other_compilers(backend, committed):
    ours = CARDS["compilers"]()[backend]
    if ours != committed["compiler"]:
        pytest.skip(f"the cards are of {committed['compiler']}, this is {ours}")


@pytest.mark.skipif(not hasattr(native.extension, "cuda"), reason="built without CUDA kernels")
def test_machine_code_of_the_cuda_kernels():
    skip_other_compilers("cuda", CUDA)
    assert_same(CARDS["cuda_rows"](), CUDA["rows"])


@pytest.mark.parametrize(
    ("only", "architectures"),
    [
        ("add_relu float16", (80, 90)),
        ("res2 3x3: 128x64x128B 4 warps 4 stages descriptor float16", (90,)),
        pytest.param("", (80,), marks=pytest.mark.slow),
        pytest.param("", (90,), marks=pytest.mark.slow),
        pytest.param("", (100,), marks=pytest.mark.slow),
    ],
)
def test_machine_code_of_the_triton_kernels(only, architectures):
    pytest.importorskip("triton")
    skip_other_compilers("triton", TRITON)
    names = {f"sm_{a}" for a in architectures}
    committed = [row for row in TRITON["rows"] if only in row["kernel"] and row["architecture"] in names]
    assert committed
    assert_same(CARDS["triton_rows"](only, architectures), committed)


def test_every_kernel_has_an_error():
    there = {(row["kernel"], row["dtype"]) for row in ERRORS["rows"]}
    for backend in ("cpu", "cuda", "triton"):
        for operator, candidate, dtype in worker.kernels((backend,)):
            interpreted = backend == "triton" and operator.name in worker.PRODUCTS  # minutes each
            refused = backend == "cpu" and dtype == "tf32"
            kernel = worker.kernel_name(operator, candidate)
            assert ((kernel, dtype) in there) != (interpreted or refused), (kernel, dtype, RENEW)


def test_no_kernel_spills():
    assert [row for row in CUDA["rows"] + TRITON["rows"] if row["spilled"]] == []


ROW = {"kernel": "k<float16>", "architecture": "sm_90a", "registers": 32, "code": "aa"}


def test_differences_are_named():
    def changed(found, committed):
        return CARDS["differences"](found, committed)

    assert changed([ROW], [ROW]) == []
    assert changed([ROW], [ROW, ROW | {"architecture": "sm_80"}]) == []  # built for fewer architectures
    assert changed([ROW | {"code": "ab"}], [ROW]) == ["k<float16> for sm_90a has other machine code"]
    assert changed([ROW, ROW | {"kernel": "l"}], [ROW]) == ["l for sm_90a is new"]
    assert changed([ROW], [ROW, ROW | {"kernel": "l"}]) == ["l for sm_90a is gone"]
