"""add_relu: the residual addition and its ReLU."""

from fastcnn.core.operator import Operator
from fastcnn.ops.add_relu import cases, contract, cpu, cuda, reference, triton

add_relu = Operator(
    "add_relu",
    contract.SCHEMA,
    normalise=contract.normalise,
    infer=contract.infer,
    definition=reference.add_relu,
    backward=contract.backward,
    saved=contract.saved,
    candidates=(*cuda.CANDIDATES, *triton.CANDIDATES, *cpu.CANDIDATES, *reference.CANDIDATES),
    tensor_count=2,
    cases=cases.CASES,
    races=cases.RACES,
)
