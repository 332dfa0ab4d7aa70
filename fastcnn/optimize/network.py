"""What the passes rewrite: a torch.fx graph of calls, and the constants that its nodes name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

# torch.fx types a node's arguments as a union of everything, so that no use of one passes a type checker.
Node: TypeAlias = Any


@dataclass
class Network:
    """One call of a model: placeholders for its tensors, calls without side effects, constants, a tuple of results.

    A node's meta["val"] is a tensor without data (or a tuple of them) of its value's shape and dtype.

    attributes: the tensors that get_attr nodes name. They are the model's own, or came from outside; never written to.
    fused: for each node, the layers of the given model that it computes, in words.
    results: tensors without data like those that the model gave, in their strides too.
    """

    graph: fx.Graph
    attributes: dict[str, Tensor]
    fused: dict[Node, list[str]] = field(default_factory=dict)
    results: list[Tensor] = field(default_factory=list)

    def nodes(self, *targets: Callable[..., Any]) -> Iterator[Node]:
        """The calls of these functions, in order; the graph may be changed meanwhile."""
        for node in list(self.graph.nodes):
            if node.op == "call_function" and node.target in targets:
                yield node

    def constant(self, name: str, tensor: Tensor) -> Node:
        """A node for a tensor of the model or from outside; the name is made unique."""
        unique, count = name, 0
        while unique in self.attributes and self.attributes[unique] is not tensor:
            count += 1
            unique = f"{name}_{count}"
        self.attributes[unique] = tensor
        node = self.graph.create_node("get_attr", unique)
        node.meta["val"] = meta_like(tensor)
        return node

    def call(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> Node:
        """A call at the insertion point whose value's form is found by running it without data."""
        node = self.graph.call_function(target, args, kwargs)
        given, named = map_nodes((args, kwargs), value)
        with torch.no_grad():
            node.meta["val"] = meta_like(target(*given, **named))
        return node

    def call_like(self, old: Node, target: Callable[..., Any], *args: Any, **kwargs: Any) -> Node:
        """A call whose value has the form of another's."""
        node = self.graph.call_function(target, args, kwargs)
        node.meta["val"] = old.meta["val"]
        return node

    def replace(self, old: Node, new: Node, *absorbed: Node) -> None:
        """`new` takes the place of `old`, and computes what `old` and the absorbed nodes did."""
        sources = [*absorbed, old]
        old.replace_all_uses_with(new)
        labels = [label for node in sources for label in self.fused.pop(node, [])]
        self.fused[new] = list(dict.fromkeys(labels))
        for node in reversed(sources):
            if not node.users:
                self.graph.erase_node(node)

    def remove(self, node: Node, value: Node) -> None:
        """The node computes nothing: its users take `value`."""
        node.replace_all_uses_with(value)
        self.fused.pop(node, None)
        self.graph.erase_node(node)

    def drop_unused(self) -> None:
        """Removes what no result depends on."""
        for node in reversed(list(self.graph.nodes)):
            if not node.users and node.op not in ("placeholder", "output"):
                self.fused.pop(node, None)
                self.graph.erase_node(node)

    def labels(self, node: Node) -> tuple[str, ...]:
        return tuple(self.fused.get(node, ()))


def value(node: Any) -> Any:
    """The tensor without data that stands for a node's value."""
    return node.meta["val"]


def meta_like(value: Any) -> Any:
    """A tensor without data like the given one; tuples are followed."""
    if isinstance(value, Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return tuple(map(meta_like, value)) if isinstance(value, tuple | list) else None


def map_nodes(tree: Any, function: Callable[[Node], Any]) -> Any:
    """The arguments of a node, with something in the place of each node in them."""
    return fx.map_arg(tree, function)


def is_constant(node: Any) -> bool:
    """Whether a node depends on no input: it is computed once, and again when the weights change."""
    if not isinstance(node, fx.Node):
        return False
    found = node.meta.get("constant")
    if found is None:
        found = node.op == "get_attr" or (node.op == "call_function" and all(map(is_constant, node.all_input_nodes)))
        node.meta["constant"] = found
    return found


def is_call(node: Any, *targets: Callable[..., Any]) -> bool:
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target in targets


def only_user(node: Node) -> bool:
    return len(node.users) == 1
