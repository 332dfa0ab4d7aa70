"""What the passes rewrite: a torch.fx graph, and the tensors and layers that its nodes name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor, fx, nn

# torch.fx types a node's arguments as a union of everything, so that no use of one passes a type checker.
Node: TypeAlias = Any


@dataclass
class Network:
    """A captured network.

    attributes: what get_attr and call_module nodes name, by dotted path; tensors are never written to.
    fused: for each node, the layers of the given model that it computes, in words.
    """

    graph: fx.Graph
    attributes: dict[str, Any]
    fused: dict[Node, list[str]] = field(default_factory=dict)

    def nodes(self, *targets: Callable[..., Any]) -> Iterator[Node]:
        """The calls of these functions, in order; the graph may be changed meanwhile."""
        for node in list(self.graph.nodes):
            if node.op == "call_function" and node.target in targets:
                yield node

    def tensor(self, node: Any) -> Tensor | None:
        """The constant that an argument names, or None if it is computed."""
        if isinstance(node, fx.Node) and node.op == "get_attr":
            value = self.attributes.get(str(node.target))
            return value if isinstance(value, Tensor) else None
        return None

    def layer(self, node: Node) -> nn.Module:
        return self.attributes[str(node.target)]

    def constant(self, name: str, value: Tensor) -> Node:
        """A node for a new constant, before the insertion point; the name is made unique."""
        unique, count = name, 0
        while unique in self.attributes:
            count += 1
            unique = f"{name}_{count}"
        self.attributes[unique] = value
        return self.graph.create_node("get_attr", unique)

    def replace(self, old: Node, new: Node, *absorbed: Node) -> None:
        """`new` takes the place of `old`, and computes what `old` and the absorbed nodes did."""
        sources = [*absorbed, old]
        old.replace_all_uses_with(new)
        self.fused[new] = [label for node in sources for label in self.fused.pop(node, [node.name])]
        for node in reversed(sources):
            if not node.users:
                self.graph.erase_node(node)

    def drop_unused(self) -> None:
        """Removes what no output depends on; layers left to PyTorch and assertions stay."""
        effects = fx.node._side_effectful_functions
        kept = ("placeholder", "output", "call_module")
        self.graph.eliminate_dead_code(is_impure_node=lambda node: node.op in kept or node.target in effects)

    def remove(self, node: Node, value: Node) -> None:
        """The node computes nothing: its users take `value`."""
        node.replace_all_uses_with(value)
        self.fused.pop(node, None)
        self.graph.erase_node(node)


def is_call(node: Any, *targets: Callable[..., Any]) -> bool:
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target in targets


def only_user(node: Node) -> bool:
    return len(node.users) == 1


class _Reference(NamedTuple):
    """A node as an argument, by name."""

    name: str


def encode(graph: fx.Graph) -> list[tuple[Any, ...]]:
    """A graph as plain data, for pickling: torch.fx would trace the generated code again and follow our functions."""

    def plain(value: Any) -> Any:
        return fx.map_arg(value, lambda node: _Reference(node.name))

    return [(n.op, n.name, n.target, plain(n.args), plain(n.kwargs)) for n in graph.nodes]


def decode(nodes: list[tuple[Any, ...]]) -> fx.Graph:
    graph = fx.Graph()
    made: dict[str, Node] = {}

    def resolve(value: Any) -> Any:
        if isinstance(value, _Reference):
            return made[value.name]
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*map(resolve, value))
        if isinstance(value, list | tuple):
            return type(value)(map(resolve, value))
        if isinstance(value, dict):
            return {k: resolve(v) for k, v in value.items()}
        if isinstance(value, slice):
            return slice(resolve(value.start), resolve(value.stop), resolve(value.step))
        return value

    for op, name, target, args, kwargs in nodes:
        made[name] = graph.create_node(op, target, resolve(args), resolve(kwargs), name)
    return graph
