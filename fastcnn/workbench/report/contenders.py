"""Who is timed: fastcnn, PyTorch's own ways, and other engines.

A contender's `prepare` takes a workload and returns a call without arguments that computes its result. It
raises Missing, with a reason that the report prints, where the contender cannot take part.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from fastcnn.optimize import optimize
from fastcnn.workbench.report import peers
from fastcnn.workbench.report.cases import KINDS, Case, Workload
from fastcnn.workbench.report.peers import Missing
from fastcnn.workbench.report.plain import add_relu, conv2d

Run = Callable[[], Any]


@dataclass(frozen=True)
class Contender:
    """name: as the results have it; kinds, devices: where it takes part; prepare: see the module."""

    name: str
    prepare: Callable[[Workload], Run]
    kinds: tuple[str, ...] = ("network",)
    devices: tuple[str, ...] = ("cpu",)

    def takes(self, case: Case) -> bool:
        return case.kind in self.kinds and case.device in self.devices


def _call(module: Callable[..., Any], workload: Workload) -> Run:
    inputs = tuple(workload.inputs.values())
    return lambda: module(*inputs)


def _fastcnn(workload: Workload) -> Run:
    """The optimised network, or the operator."""
    if workload.case.kind not in ("network", "classifier"):
        return _call(workload.fast, workload)
    (input,) = workload.inputs.values()
    optimised = workload.optimised = optimize(workload.fast)  # type: ignore[attr-defined]
    if input.is_cuda:
        return _graphed(optimised, workload)
    return _call(optimised, workload)


def _unpacked(workload: Workload) -> Run:
    """The optimised network with no copy of its weights: each call packs them."""
    return _call(optimize(workload.fast, prepack=False), workload)  # type: ignore[arg-type]


def _layers(workload: Workload) -> Run:
    """The network as it is built: fastcnn's layers one by one, nothing optimised."""
    return _call(workload.fast, workload)


def _eager(workload: Workload) -> Run:
    torch.backends.cudnn.benchmark = True
    return _call(workload.plain, workload)


def _compile(workload: Workload) -> Run:
    import torch._dynamo
    import torch._inductor.config as inductor

    torch._dynamo.reset()
    torch.backends.cudnn.benchmark = True
    mode = "max-autotune" if workload.case.device == "cuda" else None
    compiled = torch.compile(workload.plain, mode=mode, dynamic=False, fullgraph=True)
    run = _call(compiled, workload)
    with inductor.patch(freezing=True):
        run()
    return run


def _with_autograd(module: nn.Module, workload: Workload) -> Run:
    """The call as training makes it: the graph of the backward pass is recorded."""
    inputs = [t.detach().clone().requires_grad_() for t in workload.inputs.values()]

    def run() -> Any:
        with torch.enable_grad():
            return module(*inputs).detach()

    return run


# ---- on a GPU; not run on hardware yet ---------------------------------------------------------------------


def _cudnn_conv2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1, *, activation: str | None = None, residual: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """A convolution with its epilogue as one call of cuDNN, where cuDNN has that epilogue."""

    def pair(value: Any) -> list[int]:
        return [value, value] if isinstance(value, int) else list(value)

    if activation != "relu" or bias is None or isinstance(padding, str):
        return conv2d(input, weight, bias, stride, padding, dilation, groups, activation=activation, residual=residual)
    geometry = (pair(stride), pair(padding), pair(dilation), groups)
    if residual is not None:
        return torch.cudnn_convolution_add_relu(input, weight, residual, 1.0, bias, *geometry)
    return torch.cudnn_convolution_relu(input, weight, bias, *geometry)


def fuse_epilogues(model: fx.GraphModule, convolution: Callable[..., Tensor]) -> fx.GraphModule:
    """Folds batch normalisation into `conv2d` nodes, gives them their ReLU and residual, and calls `convolution`.

    What a user of cuDNN's fused calls would write by hand: the baseline that the project has to beat on a GPU.
    """
    model = copy.deepcopy(model)
    graph = model.graph

    def single_user(node: fx.Node) -> fx.Node | None:
        return next(iter(node.users)) if len(node.users) == 1 else None

    def bind(node: fx.Node) -> dict[str, Any]:
        names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        return {**dict(zip(names, node.args, strict=False)), **node.kwargs}

    for node in list(graph.nodes):
        if node.op != "call_function" or node.target is not conv2d:
            continue
        arguments = bind(node)
        after = single_user(node)
        if after is not None and after.op == "call_module":
            norm = model.get_submodule(str(after.target))
            if isinstance(norm, nn.BatchNorm2d):
                weight = _attribute(model, arguments["weight"].target)
                bias = _attribute(model, arguments["bias"].target) if arguments.get("bias") is not None else None
                folded = nn.utils.fuse_conv_bn_weights(
                    weight,
                    bias,
                    norm.running_mean,  # type: ignore[arg-type]
                    norm.running_var,  # type: ignore[arg-type]
                    norm.eps,
                    norm.weight,
                    norm.bias,
                )
                with graph.inserting_before(node):
                    for name, value in zip(("weight", "bias"), folded, strict=True):
                        attribute = f"_folded_{node.name}_{name}"
                        model.register_parameter(attribute, nn.Parameter(value.detach(), requires_grad=False))
                        arguments[name] = graph.get_attr(attribute)
                after.replace_all_uses_with(node)
                graph.erase_node(after)
                after = single_user(node)
        if after is not None and after.op == "call_function" and after.target is add_relu:
            first, second = after.args
            other = second if first is node else first
            order = {n: i for i, n in enumerate(graph.nodes)}
            if isinstance(other, fx.Node) and order[other] < order[node]:
                arguments["residual"], arguments["activation"] = other, "relu"
                after.replace_all_uses_with(node)
                graph.erase_node(after)
                after = None
        plain_relu = after is not None and after.op == "call_module" and arguments.get("activation") is None
        if plain_relu and isinstance(model.get_submodule(str(after.target)), nn.ReLU):  # type: ignore[union-attr]
            arguments["activation"] = "relu"
            after.replace_all_uses_with(node)  # type: ignore[union-attr,arg-type]
            graph.erase_node(after)  # type: ignore[arg-type]
        node.target, node.args, node.kwargs = convolution, (), arguments
    graph.eliminate_dead_code()
    graph.lint()
    model.recompile()
    return model


def _attribute(model: nn.Module, path: Any) -> Tensor:
    owner, _, name = str(path).rpartition(".")
    return getattr(model.get_submodule(owner), name)


def _cudnn(workload: Workload) -> Run:
    if workload.case.kind == "op":
        if workload.case.subject != "conv2d":
            raise Missing("cuDNN's fused calls are convolutions")
        module = workload.plain
        module.function = _cudnn_conv2d  # type: ignore[assignment]
        return _call(module, workload)
    return _call(fuse_epilogues(workload.plain, _cudnn_conv2d), workload)  # type: ignore[arg-type]


def _cudnn_graph(workload: Workload) -> Run:
    return _graphed(fuse_epilogues(workload.plain, _cudnn_conv2d), workload)  # type: ignore[arg-type]


def _graphed(module: Callable[[Tensor], Tensor], workload: Workload, copies: int = 4) -> Run:
    """A CUDA graph of the module, replayed over rotated inputs, so that no input is found in the cache."""
    (input,) = workload.inputs.values()
    rotated = [input.clone(memory_format=torch.preserve_format) for _ in range(copies)]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            module(input)
    torch.cuda.current_stream().wait_stream(stream)
    graphs: list[tuple[Any, Tensor]] = []
    for source in rotated:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=graphs[0][0].pool() if graphs else None):
            graphs.append((graph, module(source)))
    turn = 0

    def run() -> Tensor:
        nonlocal turn
        graph, output = graphs[turn % copies]
        turn += 1
        graph.replay()
        return output

    return run


# ---- the list ----------------------------------------------------------------------------------------------

CONTENDERS: dict[str, Contender] = {
    contender.name: contender
    for contender in (
        Contender("fastcnn", _fastcnn, KINDS, ("cpu", "cuda")),
        Contender("fastcnn_unpacked", _unpacked, ("network",)),
        Contender("fastcnn_layers", _layers, ("network",), ("cpu", "cuda")),
        Contender("fastcnn_autograd", lambda w: _with_autograd(w.fast, w), ("overhead",), ("cpu", "cuda")),
        Contender("eager", _eager, KINDS, ("cpu", "cuda")),
        Contender("eager_autograd", lambda w: _with_autograd(w.plain, w), ("overhead",), ("cpu", "cuda")),
        Contender("compile", _compile, ("op", "network", "classifier"), ("cpu", "cuda")),
        Contender("cudnn", _cudnn, ("op", "network"), ("cuda",)),
        Contender("cudnn_graph", _cudnn_graph, ("network",), ("cuda",)),
        Contender("onnxruntime", peers.onnxruntime, ("op", "network")),
        Contender("openvino", peers.openvino, ("op", "network")),
        Contender("ncnn", peers.ncnn, ("op", "network")),
        Contender("mnn", peers.mnn, ("op", "network")),
    )
}
PEERS = ("onnxruntime", "openvino", "ncnn", "mnn")


@contextlib.contextmanager
def prepared(contender: Contender, workload: Workload) -> Iterator[Run]:
    """The contender's call, made and run without gradients."""
    with torch.no_grad():
        yield contender.prepare(workload)
