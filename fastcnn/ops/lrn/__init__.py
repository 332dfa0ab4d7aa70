"""local_response_norm: AlexNet's normalisation across channels."""

from fastcnn.core.operator import Operator
from fastcnn.ops.lrn import cases, contract, cpu, cuda, gradient, reference, triton

local_response_norm = Operator(
    contract.NAME,
    contract.SCHEMA,
    normalise=contract.normalise,
    infer=contract.infer,
    definition=reference.local_response_norm,
    backward=gradient.backward,
    saved=contract.saved,
    candidates=(*cuda.CANDIDATES, *triton.CANDIDATES, *cpu.CANDIDATES, *reference.CANDIDATES),
    tensor_count=1,
    cases=cases.CASES,
    races=cases.RACES,
)
