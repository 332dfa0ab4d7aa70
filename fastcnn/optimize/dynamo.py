"""torch.compile(model, backend="fastcnn"): each graph that Dynamo captures is optimized as a module of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from fastcnn.optimize.module import Options, optimized


class _Graph(nn.Module):
    """A graph whose weights, which Dynamo hands in with each call, are the module's own again."""

    def __init__(self, graph: fx.GraphModule, weights: dict[int, Tensor]) -> None:
        super().__init__()
        self.graph, self.positions = graph, tuple(weights)
        for i, weight in weights.items():
            if isinstance(weight, nn.Parameter):
                self.register_parameter(f"weight_{i}", weight)
            else:
                self.register_buffer(f"weight_{i}", weight)

    def forward(self, *inputs: Any) -> Any:
        given = list(inputs)
        for i in self.positions:
            given.insert(i, getattr(self, f"weight_{i}"))
        return self.graph(*given)


def backend(graph: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
    """What runs the graph. Where gradients are asked for it is the graph itself, on PyTorch's operators."""
    nodes = [node for node in graph.graph.nodes if node.op == "placeholder"]
    weights = {
        i: x
        for i, (node, x) in enumerate(zip(nodes, example_inputs, strict=True))
        if isinstance(x, Tensor) and "_dynamo_static_input_type" in node.meta.get("tensor_dict", {})
    }
    module: Any = _Graph(graph, weights)
    fast = optimized(module, Options(), as_eval=False)
    others = [i for i in range(len(nodes)) if i not in weights]

    @torch.compiler.disable
    def run(*inputs: Any) -> Any:
        if any(inputs[i] is not getattr(module, f"weight_{i}") for i in weights):
            return graph(*inputs)
        return fast(*[inputs[i] for i in others])

    return run
