"""Which operations the training depends on: metrics and logged values cannot harm it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gradwatch.probes.lint.node import Node


class Reach(NamedTuple):
    """Nodes by ``id``. ``everything``: nothing is known, so that all nodes count."""

    values: frozenset[int]
    derivatives: frozenset[int]
    everything: bool

    def by_value(self, node: Node) -> bool:
        """Whether the loss depends on the value."""
        return self.everything or id(node) in self.values

    def by_derivative(self, node: Node) -> bool:
        """Whether a backward pass takes the derivative of this operation."""
        return node.needs_grad and (self.everything or id(node) in self.derivatives)


def reach_of(roots: Iterable[Node], kept: Iterable[Node] = ()) -> Reach:
    """Return what the roots were computed from.

    Args:
        roots: the losses.
        kept: what the step leaves behind for later ones, as a running mean; no derivatives are taken of it.
    """
    losses = list(roots)
    values, unseen = _ancestors([*losses, *kept])
    return Reach(
        frozenset(values), frozenset(id(node) for node in differentiated(losses)), everything=not losses or unseen
    )


def _ancestors(nodes: list[Node]) -> tuple[set[int], bool]:
    seen: set[int] = set()
    unseen, pending = False, list(nodes)
    while pending:
        node = pending.pop()
        if id(node) not in seen:
            seen.add(id(node))
            unseen = unseen or node.unseen
            # A comparison or an index is never NaN, whatever it was made from.
            pending += node.inputs if node.dtype.is_floating_point or node.dtype.is_complex else ()
    return seen, unseen


def differentiated(losses: Iterable[Node]) -> list[Node]:
    """Return the nodes that gradients reach; they cross a custom Function, whose operations recorded none."""
    seen: set[tuple[int, bool]] = set()
    found: list[Node] = []
    pending = [(node, True) for node in losses]
    while pending:
        node, crossing = pending.pop()
        if (id(node), crossing) in seen:
            continue
        seen.add((id(node), crossing))
        if node.needs_grad:
            found.append(node)
            pending += [(part, False) for part in node.inputs]
        elif node.crosses or crossing:
            pending += [(part, True) for part in node.inputs]
    return found
