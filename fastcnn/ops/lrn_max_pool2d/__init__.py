"""local_response_norm and the max_pool2d that alone reads it: AlexNet's and GoogLeNet's."""

from fastcnn.ops.fused import Fused
from fastcnn.ops.lrn import local_response_norm
from fastcnn.ops.lrn_max_pool2d import cases, cpu, cuda, triton
from fastcnn.ops.pool import max_pool2d

lrn_max_pool2d = Fused(
    "lrn_max_pool2d",
    local_response_norm,
    max_pool2d,
    candidates=(*cuda.CANDIDATES, *triton.CANDIDATES, *cpu.CANDIDATES),
    cases=cases.CASES,
    races=cases.RACES,
)
