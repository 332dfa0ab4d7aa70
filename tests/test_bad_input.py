# ruff: noqa: E501 - one case a line reads best
"""Bad input is a TypeError or ValueError that names the argument; never a crash, never another exception."""

import math
import re

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastcnn import functional, nn

ints = st.integers(-3, 6) | st.sampled_from([0, 2**31, 2**63, -(2**63), 2**70])
junk = st.sampled_from(
    [None, "same", "valid", "x", 1.5, math.nan, True, b"1", [], (), (1,), (1, 2), [2, 1, 3], {}, object()]
)
scalars = ints | junk | st.lists(ints, max_size=3) | st.tuples(ints, ints)
sizes = st.integers(0, 5)
dtypes = st.sampled_from(
    [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.int64, torch.bool, torch.uint8]
)


@st.composite
def tensors(draw):
    shape = draw(st.lists(sizes, max_size=5))
    tensor = torch.zeros(shape, dtype=draw(dtypes), device=draw(st.sampled_from(["cpu", "cpu", "cpu", "meta"])))
    kind = draw(st.integers(0, 9))
    if kind == 0 and tensor.device.type == "cpu":
        return tensor.to_sparse()
    if kind == 1:
        return tensor.transpose(0, -1) if tensor.dim() > 1 else tensor
    if kind == 2:
        return draw(junk)
    return tensor


def zeros(*shape):
    return lambda: torch.zeros(shape)


# A call of each function that is right, from which the test spoils some arguments.
RIGHT = {
    "conv2d": dict(input=zeros(2, 4, 5, 5), weight=zeros(4, 2, 3, 3), bias=zeros(4), stride=1, padding=0, dilation=1,
                   groups=2, activation="relu", residual=zeros(2, 4, 3, 3), out=zeros(2, 4, 3, 3)),
    "local_response_norm": dict(input=zeros(2, 4, 3, 3), size=3, alpha=1e-4, beta=0.75, k=1.0),
    "max_pool2d": dict(input=zeros(1, 2, 5, 5), kernel_size=3, stride=2, padding=1, dilation=1, ceil_mode=False,
                       return_indices=False),
    "avg_pool2d": dict(input=zeros(1, 2, 5, 5), kernel_size=3, stride=2, padding=1, ceil_mode=False,
                       count_include_pad=True, divisor_override=None),
    "adaptive_avg_pool2d": dict(input=zeros(1, 2, 5, 5), output_size=2),
    "subsample2d": dict(input=zeros(1, 4, 5, 5), coefficient=zeros(4), bias=zeros(4), kernel_size=2, activation="tanh"),
    "concat": dict(tensors=lambda: [torch.zeros(1, 2, 3, 3), torch.zeros(1, 1, 3, 3)]),
    "add_relu": dict(input=zeros(1, 2, 3, 3), other=zeros(1, 2, 3, 3)),
    "linear": dict(input=zeros(3, 4), weight=zeros(5, 4), bias=zeros(5), activation=None),
    "rbf": dict(input=zeros(3, 4), centers=zeros(5, 4)),
}  # fmt: skip
anything = tensors() | scalars | st.sampled_from(["relu", "tanh"]) | st.lists(tensors(), max_size=3)


@pytest.mark.parametrize("name", RIGHT)
def test_a_call_computes_or_is_refused_in_words(name):
    outcomes = {"computed": 0, "refused": 0}

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.dictionaries(st.sampled_from(list(RIGHT[name])), anything, max_size=2))
    def drive(spoilt):
        call = {key: value() if callable(value) else value for key, value in RIGHT[name].items()} | spoilt
        refusal = None
        try:
            getattr(functional, name)(**call)
        except (TypeError, ValueError) as error:
            refusal = str(error)
        outcomes["computed" if refusal is None else "refused"] += 1
        assert refusal is None or refusal.startswith(f"{name}: "), f"the message does not name the function: {refusal}"

    drive()
    assert sum(outcomes.values()) >= 100
    assert min(outcomes.values()) > 0, outcomes


X, W = torch.zeros(2, 4, 5, 5), torch.zeros(6, 4, 3, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: f.conv2d(X, torch.zeros(6, 5, 3, 3)), "conv2d: weight has 5 input channels, input has 4 (groups=1)"),
        (lambda f: f.conv2d(X, W, groups=3), "conv2d: weight has 4 input channels, input has 4 (groups=3)"),
        (lambda f: f.conv2d(X, W, groups=0), "conv2d: groups is 0; allowed: 1 to 2147483647"),
        (lambda f: f.conv2d(X, W, stride=0), "conv2d: stride is 0; allowed: 1 to"),
        (lambda f: f.conv2d(X, W, padding=-1), "conv2d: padding is -1; allowed: 0 to"),
        (lambda f: f.conv2d(X, W, padding="full"), "conv2d: unknown padding 'full'; allowed: 'same', 'valid'"),
        (lambda f: f.conv2d(X, W, stride=2, padding="same"), "conv2d: padding 'same' needs stride 1, stride is (2, 2)"),
        (lambda f: f.conv2d(X, W, torch.zeros(5)), "conv2d: bias has shape (5,); weight has 6 output channels: (6,) is needed"),
        (lambda f: f.conv2d(X[0, 0], W), "conv2d: input is 2-D with shape (5, 5); 3-D or 4-D is needed"),
        (lambda f: f.conv2d(X, W.double()), "conv2d: weight is torch.float64, input is torch.float32"),
        (lambda f: f.conv2d(X, W.to("meta")), "conv2d: weight is on meta, input is on cpu"),
        (lambda f: f.conv2d(X, W, activation="swish"), "conv2d: unknown activation 'swish'; allowed: None, 'relu'"),
        (lambda f: f.conv2d(X, W, residual=X), "conv2d: residual has shape (2, 4, 5, 5); the output has shape (2, 6, 3, 3)"),
        (lambda f: f.conv2d(X, W, out=X), "conv2d: out has shape (2, 4, 5, 5); the output has shape (2, 6, 3, 3)"),
        (lambda f: f.conv2d(X, W, dilation=3), "conv2d: the kernel spans 7 in height, the padded input only 5"),
        (lambda f: f.conv2d([[1]], W), "conv2d: input is [[1]] (list); a torch.Tensor is needed"),
        (lambda f: f.max_pool2d(X, 3, padding=2), "max_pool2d: padding is (2, 2); at most half of the window"),
        (lambda f: f.max_pool2d(X, 6), "max_pool2d: the window (kernel_size (6, 6), dilation (1, 1)) is larger than"),
        (lambda f: f.max_pool2d(X, 2, ceil_mode=1), "max_pool2d: ceil_mode is 1 (int); True or False is needed"),
        (lambda f: f.avg_pool2d(X, 2, divisor_override=0), "avg_pool2d: divisor_override is 0; None or a non-zero int"),
        (lambda f: f.adaptive_avg_pool2d(X, (1, 2, 3)), "adaptive_avg_pool2d: output_size has 3 elements"),
        (lambda f: f.local_response_norm(X, 0), "local_response_norm: size is 0; allowed: 1 to"),
        (lambda f: f.local_response_norm(X[0, 0], 3), "local_response_norm: input is 2-D"),
        (lambda f: f.concat([]), "concat: tensors is empty"),
        (lambda f: f.concat([X, X[:, :, 1:]]), "concat: tensors[1] has shape (2, 4, 4, 5), tensors[0] has (2, 4, 5, 5)"),
        (lambda f: f.add_relu(X, X[:1]), "add_relu: other has shape (1, 4, 5, 5), input has (2, 4, 5, 5)"),
        (lambda f: f.linear(X, torch.zeros(3, 4)), "linear: weight has 4 input features, input has 5"),
        (lambda f: f.rbf(X[0, 0], torch.zeros(3, 4)), "rbf: centers have 4 features, input has 5"),
        (lambda f: f.subsample2d(X, torch.zeros(4), torch.zeros(3)), "subsample2d: bias has shape (3,); input has 4 channels"),
        (lambda f: f.conv3x3_relu(X, torch.zeros(6, 4, 1, 1)), "conv3x3_relu: weight has shape (6, 4, 1, 1); (K, C, 3, 3)"),
        (lambda f: nn.Conv2d(3, 4, 3, activation="swish"), "Conv2d: unknown activation 'swish'"),
        (lambda f: nn.RBFOutput(torch.zeros(3)), "RBFOutput: centers is 1-D with shape (3,); 2-D is needed"),
    ],
)  # fmt: skip
def test_the_message_says_what_was_given_and_what_is_allowed(call, message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        call(functional)
