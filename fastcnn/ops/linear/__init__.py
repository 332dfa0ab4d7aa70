"""linear: matrix product + bias + activation."""

from fastcnn.backends.triton.backend import tf32_setting
from fastcnn.core.operator import Operator
from fastcnn.ops.linear import cases, contract, cpu, cuda, gradient, reference, triton

linear = Operator(
    "linear",
    contract.SCHEMA,
    normalise=contract.normalise,
    infer=contract.infer,
    definition=reference.linear,
    backward=gradient.backward,
    saved=contract.saved,
    candidates=(*cuda.CANDIDATES, *triton.CANDIDATES, *cpu.CANDIDATES, *reference.CANDIDATES),
    tensor_count=3,
    setting=tf32_setting("matmul"),
    cases=cases.CASES,
    races=cases.RACES,
)
