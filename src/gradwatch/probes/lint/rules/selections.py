"""A mask on the result of an operation that is unsafe: forward it hides the NaN, backward it does not."""

from __future__ import annotations

from typing import Any

from gradwatch.probes.lint.node import Node, ancestors, bounds_of, constant, is_node, operands, origin
from gradwatch.probes.lint.rules.found import Check, Found

_COMPARISONS = ("gt", "ge", "lt", "le", "ne", "eq", "greater", "less", "isfinite", "isnan")
_MASKED = ("where", "masked_fill", "setitem")  # its input is masked as well
_DEPTH = 5


def _too_late(node: Node) -> Found | None:
    """Look at ``where(x > 0, f(x), number)``."""
    condition = node.argument(0, "condition")
    for value, other in ((node.argument(1), node.argument(2)), (node.argument(2), node.argument(1))):
        result = origin(value)
        if constant(other) is not None and isinstance(result, Node) and _is_hidden(result, condition):
            return Found("masked-too-late", f"{result.op} is masked", None, derivative=True, instead_of=result)
    return None


def _is_hidden(result: Node, condition: Any) -> bool:
    """Whether the condition asks about what goes into an operation that is not finite everywhere."""
    unsafe = _unsafe_operand(result)
    if unsafe is None or not result.needs_grad:
        return False
    tested = [node for node in ancestors(condition, 3) if is_node(node, *_COMPARISONS) and node.inputs]
    about = {id(origin(node.inputs[0])) for node in tested}
    return any(id(origin(node)) in about for node in ancestors(unsafe, _DEPTH))


def _unsafe_operand(result: Node) -> Node | None:
    """Return what must stay away from 0, None if it does."""
    value: Any = None
    if result.op in {"log", "sqrt", "rsqrt", "reciprocal"} and result.inputs:
        value = result.inputs[0]
    elif result.op == "div":
        value = operands(result).right
    elif result.op == "pow" and (constant(operands(result).right) or 1.0) < 1.0:
        value = operands(result).left
    if not isinstance(value, Node) or constant(value) is not None or bounds_of(value).low > 0.0:
        return None
    positive = bounds_of(value).low == 0.0 and bounds_of(value).at_low is None
    return None if positive or is_node(origin(value), *_MASKED) else value


CHECKS: dict[str, tuple[Check, ...]] = {"where": (_too_late,)}
