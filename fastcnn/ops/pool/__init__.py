"""max_pool2d, avg_pool2d and adaptive_avg_pool2d."""

from fastcnn.core.operator import Operator
from fastcnn.ops.pool import cases, contract, cpu, cuda, gradient, reference, triton

max_pool2d = Operator(
    "max_pool2d",
    contract.MAX_SCHEMA,
    normalise=contract.normalise_max,
    infer=contract.infer_max,
    definition=reference.max_pool2d,
    backward=gradient.backward_max,
    training=gradient.training_max,
    saved=contract.saved,
    candidates=(*cuda.MAX_CANDIDATES, *triton.MAX_CANDIDATES, *cpu.POOL_CANDIDATES, *reference.MAX_CANDIDATES),
    tensor_count=1,
    unbatched=(0, 1),
    cases=cases.MAX_CASES,
    races=cases.MAX_RACES,
)

avg_pool2d = Operator(
    "avg_pool2d",
    contract.AVG_SCHEMA,
    normalise=contract.normalise_avg,
    infer=contract.infer_avg,
    definition=reference.avg_pool2d,
    backward=gradient.backward_avg,
    saved=contract.saved,
    candidates=(*cuda.AVG_CANDIDATES, *triton.AVG_CANDIDATES, *cpu.POOL_CANDIDATES, *reference.AVG_CANDIDATES),
    tensor_count=1,
    unbatched=(0, 1),
    cases=cases.AVG_CASES,
    races=cases.AVG_RACES,
)

adaptive_avg_pool2d = Operator(
    "adaptive_avg_pool2d",
    contract.ADAPTIVE_SCHEMA,
    normalise=contract.normalise_adaptive,
    infer=contract.infer_adaptive,
    definition=reference.adaptive_avg_pool2d,
    backward=gradient.backward_adaptive,
    saved=contract.saved,
    candidates=(
        *cuda.ADAPTIVE_CANDIDATES,
        *triton.ADAPTIVE_CANDIDATES,
        *cpu.ADAPTIVE_CANDIDATES,
        *reference.ADAPTIVE_CANDIDATES,
    ),
    tensor_count=1,
    unbatched=(0, 1),
    cases=cases.ADAPTIVE_CASES,
    races=cases.ADAPTIVE_RACES,
)
