"""Written by scripts/stub.py, and compared with the built extension by tests/test_stub.py.

`cpu` and `cuda` are modules inside the extension; one stub file cannot say so, and has classes instead. `cuda` is only
there where the extension was built with CUDA kernels.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, overload

from torch import Tensor

class Activation:
    def __init__(self, value: int) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def value(self) -> int: ...
    none: ClassVar[Activation]
    relu: ClassVar[Activation]
    sigmoid: ClassVar[Activation]
    tanh: ClassVar[Activation]
    scaled_tanh: ClassVar[Activation]
    relu6: ClassVar[Activation]
    leaky_relu: ClassVar[Activation]
    elu: ClassVar[Activation]
    hardsigmoid: ClassVar[Activation]
    hardswish: ClassVar[Activation]
    silu: ClassVar[Activation]
    gelu: ClassVar[Activation]
    gelu_tanh: ClassVar[Activation]
    mish: ClassVar[Activation]

class AdaptiveAvgPool2dProblem:
    def __init__(self) -> None: ...
    dtype: DType
    N: int
    H: int
    W: int
    C: int
    P: int
    Q: int
    x_stride: int
    y_stride: int

class AddReluProblem:
    def __init__(self) -> None: ...
    dtype: DType
    pixels: int
    C: int
    a_stride: int
    b_stride: int
    y_stride: int

class BatchNormProblem:
    def __init__(self) -> None: ...
    dtype: DType
    relu: int
    has_residual: int
    pixels: int
    C: int
    eps: float
    momentum: float
    x_stride: int
    residual_stride: int
    dy_stride: int

class BiasActivationProblem:
    def __init__(self) -> None: ...
    dtype: DType
    activation: Activation
    pixels: int
    C: int
    dy_stride: int
    y_stride: int

class ByteTableProblem:
    def __init__(self) -> None: ...
    pixels: int
    C: int
    x_stride: int
    y_stride: int

class Call:
    def __call__(self, *tensors_and_output: object) -> Tensor: ...

class Conv2dProblem:
    def __init__(self) -> None: ...
    dtype: DType
    activation: Activation
    has_bias: int
    has_residual: int
    N: int
    H: int
    W: int
    C: int
    K: int
    R: int
    S: int
    P: int
    Q: int
    stride_h: int
    stride_w: int
    pad_h: int
    pad_w: int
    dilation_h: int
    dilation_w: int
    groups: int
    x_stride: int
    y_stride: int
    residual_stride: int

class CopySliceProblem:
    def __init__(self) -> None: ...
    element_size: int
    pixels: int
    C: int
    x_stride: int
    y_stride: int

class DType:
    def __init__(self, value: int) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def value(self) -> int: ...
    float32: ClassVar[DType]
    float16: ClassVar[DType]
    bfloat16: ClassVar[DType]

class DequantizeProblem:
    def __init__(self) -> None: ...
    pixels: int
    C: int
    x_stride: int
    y_stride: int
    scale: float
    zero: int

class Elementwise:
    def __init__(self, value: int) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def value(self) -> int: ...
    none: ClassVar[Elementwise]
    relu: ClassVar[Elementwise]
    sigmoid: ClassVar[Elementwise]
    tanh: ClassVar[Elementwise]
    scaled_tanh: ClassVar[Elementwise]
    relu6: ClassVar[Elementwise]
    leaky_relu: ClassVar[Elementwise]
    elu: ClassVar[Elementwise]
    hardsigmoid: ClassVar[Elementwise]
    hardswish: ClassVar[Elementwise]
    silu: ClassVar[Elementwise]
    gelu: ClassVar[Elementwise]
    gelu_tanh: ClassVar[Elementwise]
    mish: ClassVar[Elementwise]
    add: ClassVar[Elementwise]
    scale_channels: ClassVar[Elementwise]

class ElementwiseProblem:
    def __init__(self) -> None: ...
    dtype: DType
    function: Elementwise
    pixels: int
    C: int
    a_stride: int
    b_stride: int
    y_stride: int
    pixels_per_image: int

class Int8AddProblem:
    def __init__(self) -> None: ...
    pixels: int
    C: int
    a_stride: int
    b_stride: int
    y_stride: int
    a_scale: float
    b_scale: float
    a_zero: int
    b_zero: int
    y_zero: int
    low: int
    high: int

class Int8Conv2dProblem:
    def __init__(self) -> None: ...
    has_residual: int
    float_output: int
    relu: int
    N: int
    H: int
    W: int
    C: int
    K: int
    R: int
    S: int
    P: int
    Q: int
    stride_h: int
    stride_w: int
    pad_h: int
    pad_w: int
    dilation_h: int
    dilation_w: int
    groups: int
    x_stride: int
    y_stride: int
    residual_stride: int
    x_zero: int
    y_zero: int
    residual_zero: int
    low: int
    high: int
    residual_scale: float

class Int8PoolProblem:
    def __init__(self) -> None: ...
    mode: PoolMode
    N: int
    H: int
    W: int
    C: int
    P: int
    Q: int
    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    pad_h: int
    pad_w: int
    dilation_h: int
    dilation_w: int
    count_include_pad: int
    divisor_override: int
    x_stride: int
    y_stride: int
    scale: float
    x_zero: int
    y_zero: int

class LayoutProblem:
    def __init__(self) -> None: ...
    element_size: int
    N: int
    H: int
    W: int
    C: int
    pixel_stride: int

class LinearProblem:
    def __init__(self) -> None: ...
    dtype: DType
    weight_dtype: DType
    activation: Activation
    has_bias: int
    N: int
    D: int
    M: int
    x_stride: int
    weight_stride: int
    y_stride: int

class LrnProblem:
    def __init__(self) -> None: ...
    dtype: DType
    pixels: int
    C: int
    size: int
    alpha: float
    beta: float
    k: float
    x_stride: int
    y_stride: int

class Pool2dProblem:
    def __init__(self) -> None: ...
    dtype: DType
    mode: PoolMode
    N: int
    H: int
    W: int
    C: int
    P: int
    Q: int
    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    pad_h: int
    pad_w: int
    dilation_h: int
    dilation_w: int
    count_include_pad: int
    divisor_override: int
    x_stride: int
    y_stride: int

class PoolMode:
    def __init__(self, value: int) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def value(self) -> int: ...
    max: ClassVar[PoolMode]
    average: ClassVar[PoolMode]

class QuantizeProblem:
    def __init__(self) -> None: ...
    N: int
    pixels: int
    C: int
    x_image: int
    x_stride: int
    x_channel: int
    y_stride: int
    inverse_scale: float
    zero: int

class RbfProblem:
    def __init__(self) -> None: ...
    dtype: DType
    N: int
    D: int
    M: int
    x_stride: int
    y_stride: int

class ScaleChannelsProblem:
    def __init__(self) -> None: ...
    dtype: DType
    activation: Activation
    has_residual: bool
    N: int
    pixels: int
    C: int
    x_stride: int
    residual_stride: int
    y_stride: int

class Subsample2dProblem:
    def __init__(self) -> None: ...
    dtype: DType
    activation: Activation
    N: int
    H: int
    W: int
    C: int
    P: int
    Q: int
    kernel_size: int
    x_stride: int
    y_stride: int

def attach(*asked: object) -> bool: ...
def build_info() -> dict[str, str]: ...
def fingerprints(items: tuple[Any, ...], /) -> bytes: ...
def is_increasing(activation: Activation) -> bool:
    """Whether it keeps order."""

def is_inference(tensors: tuple[Any, ...], /) -> bool: ...
def key(tensors: tuple[Any, ...], params: tuple[Any, ...], out: object, setting: object, /) -> Any: ...
def memory_fingerprint(address: int, bytes: int, /) -> int: ...
def recall(
    runners: dict[str, Any], tensors: tuple[Any, ...], params: tuple[Any, ...], out: object, setting: object, /
) -> Any: ...

class cpu:
    class Arenas:
        def __init__(self) -> None: ...

    class Conv2d:
        def __init__(self, problem: Conv2dProblem, name: str, max_pool: bool = False) -> None: ...
        @property
        def packed_bytes(self) -> int: ...
        def pack(self, weight: int, packed: int, form: cpu.WeightForm = ..., threads: int = 1) -> None: ...
        def bound(self, threads: int, output: object = None, form: cpu.WeightForm = ...) -> Call: ...

    class Int8Conv2d:
        def __init__(self, problem: Int8Conv2dProblem, name: str = "") -> None: ...
        @property
        def name(self) -> str: ...
        @property
        def packed_bytes(self) -> int: ...
        def pack(self, weight: int, bias: int, multiplier: int, packed: int) -> None: ...
        def bound(self, threads: int, output: object = None) -> Call:
            """A call of (x, packed, residual or None, y)."""

    class Plan:
        def __init__(self) -> None: ...
        def buffer(self, bytes: int) -> int: ...
        def input(self, bytes: int) -> int: ...
        def output(self, bytes: int) -> int: ...
        def finalize(self, slices: int = 1) -> None:
            """Places the buffers; from here on the plan may run, and may not change. With slices, inputs and
            outputs are so many times as long, and run() needs an arena for each thread."""

        @property
        def arena_bytes(self) -> int: ...
        @overload
        def run(
            self, inputs: Sequence[int], outputs: Sequence[int], arenas: cpu.Arenas, threads: int, alone: bool = False
        ) -> None: ...
        @overload
        def run(
            self, inputs: Sequence[int], outputs: Sequence[int], arena: int, threads: int, alone: bool = False
        ) -> None: ...
        def call(self, inputs: int, arenas: cpu.Arenas, threads: int, alone: bool, output: object) -> Call:
            """A plan of one output as what python/call.h calls a call; the caller keeps the plan alive."""

        def describe(self) -> list[tuple[str, str, str, float, int]]:
            """(op, kernel, shapes, GFLOP, bytes) of every operation."""

        def add_relu(self, arg0: AddReluProblem, /, *args: object) -> None: ...
        def copy_slice(self, arg0: CopySliceProblem, /, *args: object) -> None: ...
        def concat(self, arg0: Sequence[CopySliceProblem], /, *args: object) -> None: ...
        def conv2d(
            self,
            arg0: cpu.Conv2d,
            arg1: object,
            arg2: object,
            arg3: cpu.WeightForm,
            arg4: object,
            arg5: object,
            arg6: object,
            /,
        ) -> None: ...
        def conv2d_int8(self, arg0: cpu.Int8Conv2d, /, *args: object) -> None: ...
        def elementwise(self, arg0: ElementwiseProblem, /, *args: object) -> None: ...
        def quantize(self, arg0: QuantizeProblem, /, *args: object) -> None: ...
        def dequantize(self, arg0: DequantizeProblem, /, *args: object) -> None: ...
        def byte_table(self, arg0: ByteTableProblem, /, *args: object) -> None: ...
        def int8_add(self, arg0: Int8AddProblem, /, *args: object) -> None: ...
        def int8_pool2d(self, arg0: Int8PoolProblem, /, *args: object) -> None: ...
        def to_channels_last(self, arg0: LayoutProblem, /, *args: object) -> None: ...
        def to_channels_first(self, arg0: LayoutProblem, /, *args: object) -> None: ...
        def linear(self, arg0: LinearProblem, /, *args: object) -> None: ...
        def lrn(self, arg0: LrnProblem, /, *args: object) -> None: ...
        def lrn_max_pool2d(self, arg0: LrnProblem, arg1: Pool2dProblem, /, *args: object) -> None: ...
        def pool2d(self, arg0: Pool2dProblem, /, *args: object) -> None: ...
        def adaptive_avg_pool2d(self, arg0: AdaptiveAvgPool2dProblem, /, *args: object) -> None: ...
        def rbf(self, arg0: RbfProblem, /, *args: object) -> None: ...
        def scale_channels(self, arg0: ScaleChannelsProblem, /, *args: object) -> None: ...
        def subsample2d(self, arg0: Subsample2dProblem, /, *args: object) -> None: ...

    class WeightForm:
        def __init__(self, value: int) -> None: ...
        @property
        def name(self) -> str: ...
        @property
        def value(self) -> int: ...
        packed: ClassVar[cpu.WeightForm]
        contiguous: ClassVar[cpu.WeightForm]
        channels_last: ClassVar[cpu.WeightForm]
        flipped_contiguous: ClassVar[cpu.WeightForm]
        flipped_channels_last: ClassVar[cpu.WeightForm]

    @staticmethod
    def adaptive_avg_pool2d(arg0: AdaptiveAvgPool2dProblem, /, threads: int, output: object = None) -> Call: ...
    @staticmethod
    def adaptive_avg_pool2d_gradient(problem: AdaptiveAvgPool2dProblem, threads: int) -> Call:
        """(dy, dx)"""

    @staticmethod
    def add_relu(arg0: AddReluProblem, /, threads: int, output: object = None) -> Call: ...
    @staticmethod
    def batch_norm(problem: BatchNormProblem, threads: int) -> Call:
        """(x, weight, bias, residual, running_mean, running_var, mean, inv_std, y)"""

    @staticmethod
    def batch_norm_gradient(problem: BatchNormProblem, threads: int) -> Call:
        """(x, weight, bias, residual, None, None, mean, inv_std, y, dy, dx, dresidual, dweight, dbias)"""

    @staticmethod
    def bias_activation_gradient(problem: BiasActivationProblem, threads: int) -> Call:
        """(dy, y, dz, db)"""

    @staticmethod
    def byte_table(arg0: ByteTableProblem, /, threads: int, output: object = None) -> Call: ...
    @staticmethod
    def caches() -> tuple[int, int, int]:
        """Bytes of the first, second and third level."""

    @staticmethod
    def concat(arg0: Sequence[CopySliceProblem], /, threads: int, output: object = None) -> Call: ...
    @staticmethod
    def conv2d_algorithms() -> list[str]:
        """All of them, best first."""

    @staticmethod
    def conv2d_int8(arg0: cpu.Int8Conv2d, /, threads: int, output: object = None) -> Call: ...
    @staticmethod
    def conv2d_int8_kernels() -> list[str]:
        """All of them, best first."""

    @staticmethod
    def conv2d_reason(name: str, problem: Conv2dProblem, threads: int) -> str:
        """Why the algorithm does not take the problem; "" if it does."""

    @staticmethod
    def conv2d_weight_gradient(problem: Conv2dProblem, contiguous: bool, threads: int, winograd: bool = False) -> Call:
        """(x, dy, dw)"""

    @staticmethod
    def copy_slice(arg0: CopySliceProblem, /, threads: int, output: object = None) -> Call: ...
    @staticmethod
    def dequantize(arg0: DequantizeProblem, /, threads: int, output: object = None) -> Call: ...
    @staticmethod
    def elementwise(arg0: ElementwiseProblem, /, threads: int, output: object = None) -> Call: ...
    @staticmethod
    def int8_add(arg0: Int8AddProblem, /, threads: int, output: object = None) -> Call: ...
    @staticmethod
    def int8_pool2d(arg0: Int8PoolProblem, /, threads: int, output: object = None) -> Call: ...
    @staticmethod
    def isa() -> str: ...
    @staticmethod
    def isas() -> list[str]:
        """What this processor can run, best first."""

    @staticmethod
    def linear(arg0: LinearProblem, /, threads: int, output: object = None) -> Call: ...
    @staticmethod
    def lrn(arg0: LrnProblem, /, threads: int, output: object = None) -> Call: ...
    @staticmethod
    def lrn_gradient(problem: LrnProblem, threads: int) -> Call:
        """(x, dy, dx)"""

    @staticmethod
    def lrn_max_pool2d(arg0: LrnProblem, arg1: Pool2dProblem, /, threads: int, output: object = None) -> Call: ...
    @staticmethod
    def max_pool2d_taps(problem: Pool2dProblem, threads: int) -> Call:
        """(x, y, taps)"""

    @staticmethod
    def pool2d(arg0: Pool2dProblem, /, threads: int, output: object = None) -> Call: ...
    @staticmethod
    def pool2d_gradient(problem: Pool2dProblem, threads: int) -> Call:
        """(taps, dy, dx)"""

    @staticmethod
    def quantize(arg0: QuantizeProblem, /, threads: int, output: object = None) -> Call: ...
    @staticmethod
    def rbf(arg0: RbfProblem, /, threads: int, output: object = None) -> Call: ...
    @staticmethod
    def scale_channels(arg0: ScaleChannelsProblem, /, threads: int, output: object = None) -> Call: ...
    @staticmethod
    def set_isa(arg0: str, /) -> None:
        """For tests: "amx", "avx512", "avx2" or "baseline"; packed weights must be packed again."""

    @staticmethod
    def set_winograd_tolerance(tolerance: float) -> None:
        """The largest relative L2 error that a Winograd algorithm may have to be chosen; 0 forbids them."""

    @staticmethod
    def subsample2d(arg0: Subsample2dProblem, /, threads: int, output: object = None) -> Call: ...
    @staticmethod
    def subsample2d_gradient(problem: Subsample2dProblem, threads: int) -> Call:
        """(x, coefficient, dy, dx, dcoefficient)"""

    @staticmethod
    def to_channels_first(arg0: LayoutProblem, /, threads: int, output: object = None) -> Call: ...
    @staticmethod
    def to_channels_last(arg0: LayoutProblem, /, threads: int, output: object = None) -> Call: ...
    @staticmethod
    def winograd_tolerance() -> float: ...

class cuda:
    class Conv2dMaxPool2dPlan:
        def __init__(self, tile_p: int, tile_q: int, tf32: bool) -> None: ...
        @property
        def tile_p(self) -> int: ...
        @property
        def tile_q(self) -> int: ...

    class Conv2dPlan:
        def __init__(self, name: str) -> None: ...
        @property
        def name(self) -> str: ...
        @property
        def kernel(self) -> str: ...
        @property
        def tile_m(self) -> int: ...
        @property
        def tile_n(self) -> int: ...
        @property
        def stages(self) -> int: ...
        @property
        def splits(self) -> int: ...

    @staticmethod
    def adaptive_avg_pool2d(problem: AdaptiveAvgPool2dProblem, x: int, y: int, stream: int = 0) -> None: ...
    @staticmethod
    def add_relu(problem: AddReluProblem, a: int, b: int, y: int, stream: int = 0) -> None: ...
    architectures: list[str]

    @staticmethod
    def conv2d(
        problem: Conv2dProblem,
        plan: cuda.Conv2dPlan,
        x: int,
        weight: int,
        bias: int,
        residual: int,
        y: int,
        workspace: int = 0,
        stream: int = 0,
    ) -> None: ...
    @staticmethod
    def conv2d_from_linear(problem: LinearProblem) -> Conv2dProblem: ...
    @staticmethod
    def conv2d_max_pool2d(
        conv: Conv2dProblem,
        pool: Pool2dProblem,
        plan: cuda.Conv2dMaxPool2dPlan,
        x: int,
        weight: int,
        bias: int,
        y: int,
        stream: int = 0,
    ) -> None: ...
    @staticmethod
    def conv2d_max_pool2d_plan(
        conv: Conv2dProblem, pool: Pool2dProblem, capability: tuple[int, int], shared_memory_per_block: int, tf32: bool
    ) -> tuple[cuda.Conv2dMaxPool2dPlan, str]:
        """The plan, and "" if it can run the problem, else why not."""

    @staticmethod
    def conv2d_max_pool2d_tile_k(dtype: DType) -> int: ...
    @staticmethod
    def conv2d_plan_prediction(
        problem: Conv2dProblem,
        plan: cuda.Conv2dPlan,
        capability: tuple[int, int],
        multiprocessors: int,
        shared_memory_per_block: int,
    ) -> tuple[float, float]:
        """Clock cycles that the cost model expects, and the share of multiprocessors kept busy."""

    @staticmethod
    def conv2d_plan_reason(
        problem: Conv2dProblem, plan: cuda.Conv2dPlan, capability: tuple[int, int], shared_memory_per_block: int
    ) -> str:
        """Why the plan cannot run the problem; "" if it can."""

    @staticmethod
    def conv2d_plans(
        problem: Conv2dProblem,
        capability: tuple[int, int],
        multiprocessors: int,
        shared_memory_per_block: int,
        tf32: bool,
    ) -> list[cuda.Conv2dPlan]:
        """Every plan that can run the problem on such a device, the one expected fastest first."""

    @staticmethod
    def conv2d_workspace_bytes(problem: Conv2dProblem, plan: cuda.Conv2dPlan) -> int: ...
    @staticmethod
    def copy_slice(problem: CopySliceProblem, x: int, y: int, stream: int = 0) -> None: ...
    @staticmethod
    def device(index: int) -> dict[str, Any]: ...
    @staticmethod
    def lrn(problem: LrnProblem, x: int, y: int, stream: int = 0) -> None: ...
    @staticmethod
    def lrn_max_pool(lrn: LrnProblem, pool: Pool2dProblem, x: int, y: int, stream: int = 0) -> None: ...
    @staticmethod
    def pool2d(problem: Pool2dProblem, x: int, y: int, stream: int = 0) -> None: ...
    @staticmethod
    def rbf(problem: RbfProblem, x: int, centers: int, y: int, stream: int = 0) -> None: ...
    source: str

    @staticmethod
    def subsample2d(
        problem: Subsample2dProblem, x: int, coefficient: int, bias: int, y: int, stream: int = 0
    ) -> None: ...
    @staticmethod
    def unavailable() -> str:
        """Why no GPU can be used, in the CUDA runtime's words; "" if one can."""
