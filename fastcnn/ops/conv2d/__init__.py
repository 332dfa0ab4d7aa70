"""conv2d: convolution + bias + residual + activation."""

from fastcnn.backends.triton.backend import tf32_setting
from fastcnn.core.operator import Operator
from fastcnn.ops.conv2d import cases, contract, cpu, cuda, gradient, reference, triton

conv2d = Operator(
    "conv2d",
    contract.SCHEMA,
    normalise=contract.normalise,
    infer=contract.infer,
    definition=reference.conv2d,
    backward=gradient.backward,
    saved=contract.saved,
    candidates=(*cuda.CANDIDATES, *triton.CANDIDATES, *cpu.CANDIDATES, *reference.CANDIDATES),
    tensor_count=4,
    unbatched=(0, 3, 4),
    setting=tf32_setting("conv"),
    cases=cases.CASES,
    races=cases.RACES,
)
