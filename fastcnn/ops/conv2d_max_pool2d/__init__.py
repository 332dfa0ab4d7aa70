"""conv2d and the max_pool2d that alone reads it: the stems of LeNet-5, AlexNet, GoogLeNet and ResNet.

With one or three input channels the convolution is short, and writing its result and reading it again for the pool
takes longer than computing it.
"""

from fastcnn.ops.conv2d import conv2d
from fastcnn.ops.conv2d_max_pool2d import cases, cuda, triton
from fastcnn.ops.fused import Fused
from fastcnn.ops.pool import max_pool2d

conv2d_max_pool2d = Fused(
    "conv2d_max_pool2d",
    conv2d,
    max_pool2d,
    candidates=(*cuda.CANDIDATES, *triton.CANDIDATES),
    cases=cases.CASES,
    races=cases.RACES,
)
