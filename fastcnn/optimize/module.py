"""The modules that `optimize` returns."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from fastcnn.core.backend import current_backend
from fastcnn.core.fingerprints import Fingerprints, slots
from fastcnn.core.plan import Arenas
from fastcnn.optimize import cuda_graphs, lower
from fastcnn.optimize.fuse_conv_pool import fuse_conv_pool
from fastcnn.optimize.network import Network, decode, encode
from fastcnn.optimize.program import Program, Unknown
from fastcnn.optimize.report import Report, Row


class Options(NamedTuple):
    """The choices of `optimize` that a module keeps: see there."""

    cuda_graphs: bool = True
    prepack: bool = True


class _Inference(nn.Module):
    """What both forms share: eval mode only, and following the given model's weights."""

    def __init__(self) -> None:
        super().__init__()
        self.training = False
        self._lock = threading.RLock()
        self._given: tuple[nn.Module, Callable[[], nn.Module]] | None = None
        self._prints = Fingerprints(())

    def follow(self, given: nn.Module, again: Callable[[], nn.Module]) -> None:
        """From here on a change of the given model makes the next call take what `again()` makes of it."""
        self._given = given, again  # in a tuple, so that it is no part of this module
        self._prints = Fingerprints((*slots(self), *slots(given)))

    def _unfollow(self) -> None:
        """This module's tensors are its own now."""
        self._given = None
        self._prints = Fingerprints(slots(self))

    def _renew(self) -> None:
        """What was made from weights that have changed is made anew: from the given model, or from those kept here."""
        with self._lock:
            changed, own = self._prints.changed(), sum(1 for _ in slots(self))
            if self._given is not None and any(i >= own for i in changed):
                self.__fastcnn_refresh__()
            elif changed:
                self._forget()
                self._prints.take()

    def _adopt(self, other: Any) -> None:
        raise NotImplementedError

    def _forget(self) -> None:
        """Drops everything made from the weights."""

    def __fastcnn_refresh__(self) -> None:
        with self._lock:
            if self._given is None:
                self._forget()
                self._prints.take()
                return
            given, again = self._given
            fresh = again()
            if type(fresh) is not type(self):
                raise RuntimeError("the given model has changed into one of another form; optimize it again")
            self._adopt(fresh)
            self.follow(given, again)

    def train(self, mode: bool = True) -> Any:
        if mode:
            raise RuntimeError("an optimized network is for inference; train the given model and optimize it again")
        return self


class Optimized(_Inference):
    """A captured and rewritten network. Programs, one a set of input shapes, are made when first needed.

    Its state_dict holds the weights as the passes left them, for other modules optimized from the same model.
    """

    # A program holds a few hundred small structs; the packed weights are shared by all.
    MAX_PROGRAMS = 64

    def __init__(self, network: Network, options: Options, alone: bool) -> None:
        super().__init__()
        network.graph.lint()
        self.options = options
        # Whether it is no part of a network whose other parts PyTorch runs: see OwnThreads in csrc/cpu/thread_pool.h.
        self.alone = alone
        self.network = fx.GraphModule(network.attributes, network.graph)
        self.fused = _labels(network)
        self._inputs = [node for node in network.graph.nodes if node.op == "placeholder"]
        self.register_load_state_dict_post_hook(lambda module, _: module._forget_and_unfollow())
        self._forget_and_unfollow()

    def _forget(self) -> None:
        self._programs: OrderedDict[Any, Program | None] = OrderedDict()
        self._packed, self._arenas = lower.PackedWeights(self.options.prepack), Arenas()
        self._graphs = cuda_graphs.CudaGraphs()

    def _forget_and_unfollow(self) -> None:
        self._forget()
        self._unfollow()

    def _adopt(self, other: Optimized) -> None:
        self.network, self.fused, self._inputs = other.network, other.fused, other._inputs
        self._forget()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return self.network(*args, **kwargs)
        inputs = self._bind(args, kwargs) if kwargs or len(args) != len(self._inputs) else args
        if inputs is None or not _is_plain_inference(inputs):
            return self.network(*args, **kwargs)
        if self._prints.changed():
            self._renew()
        program = self.program(*inputs)
        if program is None:
            return self.network(*args, **kwargs)
        if self.options.cuda_graphs and program.on_cuda and cuda_graphs.takes(inputs):
            return self._graphs(program, inputs)
        return program(inputs)

    def _bind(self, args: Any, kwargs: dict[str, Any]) -> tuple[Any, ...] | None:
        """The inputs in order, defaults filled in; None where the call does not fit or takes *args."""
        names = [str(node.target) for node in self._inputs]
        if len(args) > len(names) or any(name.startswith("*") for name in names) or not set(kwargs) <= set(names):
            return None
        bound = list(args)
        for node in self._inputs[len(args) :]:
            if str(node.target) in kwargs:
                bound.append(kwargs[str(node.target)])
            elif node.args:
                bound.append(node.args[0])
            else:
                return None
        return tuple(bound)

    def program(self, *inputs: Any) -> Program | None:
        """The program for inputs like these; None if their shapes cannot be followed ahead of time."""
        key = (tuple(map(_signature, inputs)), torch.get_num_threads(), current_backend())
        try:
            return self._programs[key]
        except KeyError:
            pass
        with self._lock:
            if key not in self._programs:
                try:
                    module, fused = (self.network, self.fused) if _on_cpu(inputs) else self._for_gpu()
                    program = Program(module, inputs, self._packed, self._arenas, fused, self.alone)
                except Unknown:
                    program = None
                while len(self._programs) >= self.MAX_PROGRAMS:
                    self._programs.popitem(last=False)
                self._programs[key] = program
            return self._programs[key]

    def _for_gpu(self) -> tuple[fx.GraphModule, dict[str, list[str]]]:
        """The network with what only GPU kernels compute together as one node, and its nodes' labels."""
        network = _network(encode(self.network.graph), {}, self.fused)
        fuse_conv_pool(network)
        return fx.GraphModule(self.network, network.graph), _labels(network)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        result = super()._apply(*args, **kwargs)
        self._forget_and_unfollow()
        return result

    def __reduce__(self) -> Any:
        attributes = {
            str(node.target): _attribute(self.network, str(node.target))
            for node in self.network.graph.nodes
            if node.op in ("get_attr", "call_module")
        }
        return _rebuild, (encode(self.network.graph), attributes, self.fused, self.options, self.alone)

    def __fastcnn_explain__(self, *args: Any, **kwargs: Any) -> Report:
        if not args and not kwargs:
            return Report(
                [Row.of_node(node, self.fused) for node in self.network.graph.nodes if node.op.startswith("call")]
            )
        inputs = self._bind(args, kwargs)
        program = None if inputs is None else self.program(*inputs)
        if program is None:
            self.network(*args, **kwargs)  # the error that it raises, if any, is the best explanation
            return Report([], "PyTorch runs the network: its shapes depend on the data")
        return Report(program.rows)


class PerLayer(_Inference):
    """A network that symbolic tracing could not follow: its own Python code, with the parts below optimized."""

    def __init__(self, module: nn.Module, reason: str) -> None:
        super().__init__()
        self.module, self.reason = module, reason

    def __reduce__(self) -> Any:
        return PerLayer, (self.module, self.reason)

    def _adopt(self, other: PerLayer) -> None:
        self.module, self.reason = other.module, other.reason

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        result = super()._apply(*args, **kwargs)
        self._unfollow()
        return result

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self._given is not None and not torch.compiler.is_compiling() and self._prints.changed():
            self._renew()
        return self.module(*args, **kwargs)

    def __fastcnn_explain__(self, *args: Any, **kwargs: Any) -> Report:
        parts = [(name, m) for name, m in self.module.named_modules() if isinstance(m, Optimized)]
        calls: dict[str, tuple[Any, Any]] = {}
        hooks = [
            m.register_forward_pre_hook(lambda m, a, k, name=name: calls.update({name: (a, k)}), with_kwargs=True)
            for name, m in parts
        ]
        try:
            if args or kwargs:
                with torch.no_grad():
                    self(*args, **kwargs)
        finally:
            for hook in hooks:
                hook.remove()
        rows = []
        for name, part in parts:
            a, k = calls.get(name, ((), {}))
            for row in part.__fastcnn_explain__(*a, **k).rows:
                layers = row.computes or (row.name,)
                rows.append(row._replace(computes=tuple(f"{name}.{layer}" for layer in layers)))
        return Report(rows, f"optimized layer by layer: {self.reason}")


def _rebuild(
    nodes: Any, attributes: dict[str, Any], fused: dict[str, list[str]], options: Options, alone: bool
) -> Optimized:
    return Optimized(_network(nodes, attributes, fused), options, alone)


def _network(nodes: Any, attributes: dict[str, Any], fused: dict[str, list[str]]) -> Network:
    """A network of encoded nodes, with its nodes' labels by name."""
    graph = decode(nodes)
    names = {node.name: node for node in graph.nodes}
    labels = {names[name]: label for name, label in fused.items() if name in names}
    return Network(graph, attributes, labels)


def _labels(network: Network) -> dict[str, list[str]]:
    return {node.name: labels for node, labels in network.fused.items()}


def _on_cpu(inputs: Any) -> bool:
    """Whether native CPU kernels may run the program."""
    return current_backend() in ("auto", "cpu") and all(x.is_cpu for x in inputs if isinstance(x, Tensor))


def _attribute(module: Any, path: str) -> Any:
    for part in path.split("."):
        module = getattr(module, part)
    return module


def _signature(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return type(value), value
    return value.shape, value.stride(), value.dtype, value.device


_PLAIN = (Tensor, nn.Parameter, int, float, bool, str, type(None))


def _is_plain_inference(inputs: Any) -> bool:
    """Whether a program may run: nothing records, traces, transforms or casts what happens."""
    grad = torch.is_grad_enabled()
    for value in inputs:
        if type(value) not in _PLAIN:
            return False
        if isinstance(value, Tensor) and ((grad and value.requires_grad) or not (value.is_cpu or value.is_cuda)):
            return False
    return not (
        torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._get_tracing_state() is not None
        or torch.autograd.forward_ad._current_level >= 0
        or torch._C._is_any_autocast_enabled()
    )
