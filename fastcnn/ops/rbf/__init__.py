"""rbf: squared Euclidean distances to centers, LeNet-5's output units."""

from fastcnn.core.operator import Operator
from fastcnn.ops.rbf import cases, contract, cpu, cuda, reference, triton

rbf = Operator(
    "rbf",
    contract.SCHEMA,
    normalise=contract.normalise,
    infer=contract.infer,
    definition=reference.rbf,
    backward=contract.backward,
    saved=contract.saved,
    candidates=(*cuda.CANDIDATES, *triton.CANDIDATES, *cpu.CANDIDATES, *reference.CANDIDATES),
    tensor_count=2,
    cases=cases.CASES,
    races=cases.RACES,
)
