"""linear: matrix product + bias + activation."""

from fastcnn.dispatch import Operator
from fastcnn.ops.linear import contract, cpu, cuda, reference, triton
from fastcnn.ops.triton_backend import tf32_setting

linear = Operator(
    "linear",
    contract.SCHEMA,
    normalise=contract.normalise,
    infer=contract.infer,
    definition=reference.linear,
    backward=contract.backward,
    saved=contract.saved,
    candidates=(*cuda.CANDIDATES, *triton.CANDIDATES, *cpu.CANDIDATES, *reference.CANDIDATES),
    tensor_count=3,
    setting=tf32_setting("matmul"),
)
