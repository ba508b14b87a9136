"""Means and spreads of what may be too few, and a variance as the difference of two means."""

from __future__ import annotations

from typing import Any

import torch

from gradwatch.probes.lint.bounds import words
from gradwatch.probes.lint.node import Node, constant, identical, is_node, operands, origin, same
from gradwatch.probes.lint.rules.found import Check, Found

_PICKS = 8


def selection(value: Any) -> Node | None:
    """Return the selection by a condition that decides how many elements there are."""
    for _ in range(_PICKS):
        if not isinstance(value, Node):
            return None
        if value.op in {"masked_select", "getitem"} and _by_condition(value):
            return None if value.examined or _examined_condition(value) else value
        if value.op not in _KEEP or not value.inputs:
            return None
        value = value.inputs[0]
    return None


# What leaves the number of elements as it is.
_KEEP = words(
    "getitem view reshape flatten float double half to detach contiguous clone sub add mul div pow square abs log exp "
    "sqrt neg squeeze unsqueeze transpose"
)


def _by_condition(node: Node) -> bool:
    index = node.argument(1, "mask")
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, Node) and part.dtype is torch.bool and part.depends_on_data for part in parts)


def _examined_condition(node: Node) -> bool:
    return any(part.examined for part in node.inputs[1:]) or any(origin(part).examined for part in node.inputs[1:])


def _few(node: Node) -> Found | None:
    """Std and var divide by n - 1."""
    source = node.argument(0, "input")
    correction = node.argument(2, "correction", default=1)
    unbiased = node.kwargs.get("unbiased", node.args[1] if len(node.args) > 1 and isinstance(node.args[1], bool) else 1)
    if not isinstance(source, Node) or correction == 0 or not unbiased:
        return None
    if selection(source) is not None:
        return Found("spread-of-one", "the condition may select one element or none", source)
    if _count(source.shape, node.shape) == 1 and source.shape:
        return Found("spread-of-one", "there is one element", source)
    return None


def _count(before: tuple[int, ...], after: tuple[int, ...]) -> int:
    """Return how many elements each result was computed from."""
    total, kept = torch.Size(before).numel(), torch.Size(after).numel()
    return total // kept if kept else 0


def _empty(node: Node) -> Found | None:
    source = node.argument(0, "input")
    if node.argument(1, "dim") is not None or selection(source) is None:
        return None
    return Found("mean-of-nothing", "the condition may hold nowhere", None)


def _difference(node: Node) -> Found | None:
    """E[x^2] - E[x]^2."""
    left, right = (origin(part) for part in operands(node))
    if not is_node(left, "mean") or not _is_square(right):
        return None
    square, mean = origin(left.inputs[0]), origin(_base(right))
    if not _is_square(square) or not is_node(mean, "mean"):
        return None
    if not same(_base(square), mean.inputs[0]):
        return None
    return Found("variance-by-subtraction", "both means are much larger than their difference", mean)


def _is_square(node: Any) -> bool:
    if is_node(node, "pow"):
        return constant(operands(node).right) == 2.0  # noqa: PLR2004
    if is_node(node, "mul"):
        return identical(*operands(node))
    return is_node(node, "square")


def _base(node: Any) -> Any:
    return node.inputs[0]


CHECKS: dict[str, tuple[Check, ...]] = {
    "std": (_few,),
    "var": (_few,),
    "mean": (_empty,),
    "sub": (_difference,),
}
