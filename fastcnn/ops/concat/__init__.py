"""concat: side by side along channels."""

from fastcnn.core.operator import Operator
from fastcnn.ops.concat import cases, contract, cpu, cuda, reference, triton

concat = Operator(
    "concat",
    contract.SCHEMA,
    normalise=contract.normalise,
    infer=contract.infer,
    definition=reference.concat,
    backward=contract.backward,
    saved=contract.saved,
    candidates=(*cuda.CANDIDATES, *triton.CANDIDATES, *cpu.CANDIDATES, *reference.CANDIDATES),
    tensor_count=1,
    cases=cases.CASES,
    races=cases.RACES,
)
