"""subsample2d: LeNet-5's trainable pooling."""

from fastcnn.core.operator import Operator
from fastcnn.ops.subsample2d import cases, contract, cpu, cuda, gradient, reference, triton

subsample2d = Operator(
    "subsample2d",
    contract.SCHEMA,
    normalise=contract.normalise,
    infer=contract.infer,
    definition=reference.subsample2d,
    backward=gradient.backward,
    saved=contract.saved,
    candidates=(*cuda.CANDIDATES, *triton.CANDIDATES, *cpu.CANDIDATES, *reference.CANDIDATES),
    tensor_count=3,
    cases=cases.CASES,
    races=cases.RACES,
)
