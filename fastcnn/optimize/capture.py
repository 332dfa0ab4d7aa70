"""A module as a torch.fx graph, in eval mode, without touching the module."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, fx, nn

from fastcnn.optimize.network import Network


def has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def eval_copy(model: nn.Module) -> nn.Module:
    """The model's modules copied, in eval mode and without in-place layers; its tensors shared, without gradients."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None and id(tensor) not in memo:
                shared = tensor.detach()
                memo[id(tensor)] = nn.Parameter(shared, False) if isinstance(tensor, nn.Parameter) else shared
    copied = copy.deepcopy(model, memo)
    for module in copied.modules():
        module.training = False
        if getattr(module, "inplace", None) is True:
            module.inplace, module.was_inplace = False, True  # type: ignore[assignment]
    return copied


def capture(model: nn.Module) -> Network:
    """The graph of a model that `eval_copy` made. Raises whatever symbolic tracing raises."""
    for name, module in model.named_modules():
        if has_hooks(module):
            raise ValueError(f"{name or type(module).__name__} has hooks, which run with their layer only")
    # Followed down to PyTorch's own layers; ours are calls of fastcnn.functional.
    graph = fx.Tracer().trace(model)
    attributes: dict[str, Any] = {}
    for node in graph.nodes:
        if node.op in ("get_attr", "call_module"):
            attributes[str(node.target)] = _attribute(model, str(node.target))
    return Network(graph, attributes)


def _attribute(root: Any, path: str) -> Any:
    for part in path.split("."):
        root = getattr(root, part)
    return root.detach() if isinstance(root, Tensor) else root
