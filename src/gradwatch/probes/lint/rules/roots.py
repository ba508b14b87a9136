"""Square roots and fractional powers at 0 and below."""

from __future__ import annotations

from typing import Any

from gradwatch.probes.lint.arithmetic import is_whole
from gradwatch.probes.lint.node import Node, bounds_of, constant, is_node, operands, origin, plus_constant
from gradwatch.probes.lint.rules.found import Check, Found, is_examined, lost_eps


def _sqrt(node: Node) -> Found | None:
    return _root(node.argument(0, "input"), "sqrt-at-zero", "sqrt-of-negative")


def _root(value: Any, at_zero: str, below: str) -> Found | None:
    lost = lost_eps(value)
    if lost is not None:
        return lost
    bounds = bounds_of(value)
    if not isinstance(value, Node) or not value.depends_on_data or is_examined(value):
        return None
    if bounds.low >= 0.0:
        return Found(at_zero, bounds.zero.text, value, derivative=True) if bounds.zero else None
    if bounds.signed:
        return Found(below, f"{origin(value).op} gives numbers of both signs", value)
    return None


def _power(node: Node) -> Found | None:
    base, exponent = operands(node)
    p = constant(exponent)
    if is_whole(p) or not isinstance(base, Node) or (p is None and not _is_inverse(exponent)):
        return None
    if p is None or 0.0 < p < 1.0:
        return _root(base, "fractional-power", "fractional-power")
    if bounds_of(base).low < 0.0 and bounds_of(base).signed and base.depends_on_data:
        return Found("fractional-power", f"{origin(base).op} gives numbers of both signs", base)
    return None


def _is_inverse(exponent: Any) -> bool:
    """Whether an exponent that is learnt is 1 / p."""
    node = origin(exponent)
    return is_node(node, "reciprocal") or (is_node(node, "div") and constant(operands(node).left) == 1.0)


def _hypot(node: Node) -> Found | None:
    if not node.depends_on_data or any(bounds_of(part).low > 0.0 for part in node.inputs):
        return None
    if any(plus_constant(part) for part in node.inputs):
        return None
    return Found("sqrt-at-zero", "hypot(a, b) is 0 where both are", node.inputs[0], derivative=True)


def _norm(node: Node) -> Found | None:
    """Look at a Euclidean norm: its first derivative at 0 is set to 0, its second is NaN."""
    zero = node.bounds.zero
    if zero is None or node.argument(1, "p", "ord") not in {2, "fro", None} or not node.depends_on_data:
        return None
    return Found("norm-differentiated-twice", zero.text, node.inputs[0], derivative=True, twice=True)


def _outside(node: Node) -> Found | None:
    guarded = plus_constant(node)
    if guarded is None or not 0.0 < guarded[1] < 0.1:  # noqa: PLR2004 - what is larger is no eps
        return None
    root = origin(guarded[0])
    inner: Any = None
    if is_node(root, "sqrt"):
        inner = root.inputs[0]
    elif is_node(root, "pow") and constant(operands(root).right) == 0.5:  # noqa: PLR2004
        inner = operands(root).left
    if inner is None or not root.needs_grad:
        return None
    found = _root(inner, "eps-outside-sqrt", "eps-outside-sqrt")
    if found is None or not found.derivative:
        return None
    return found._replace(instead_of=root)


CHECKS: dict[str, tuple[Check, ...]] = {
    "norm": (_norm,),
    "sqrt": (_sqrt,),
    "pow": (_power,),
    "hypot": (_hypot,),
    "add": (_outside,),
}
