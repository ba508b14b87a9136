"""Inverse trigonometric and hyperbolic functions at the edge of their domain."""

from __future__ import annotations

from gradwatch.probes.lint.node import Node, bounds_of, origin
from gradwatch.probes.lint.rules.found import Check, Found


def _edge(node: Node) -> Found | None:
    value = node.argument(0, "input")
    if not isinstance(value, Node) or not value.depends_on_data:
        return None
    bounds = bounds_of(value)
    derivative = node.op != "atanh"
    if bounds.high == 1.0 and bounds.at_high is not None:
        return Found("angle-at-edge", bounds.at_high.text, value, derivative=derivative)
    if bounds.low == -1.0 and bounds.at_low is not None:
        return Found("angle-at-edge", bounds.at_low.text, value, derivative=derivative)
    beyond = bounds.high > 1.0 or bounds.low < -1.0
    if beyond and origin(value).op not in {"data", "changed"}:
        return Found("angle-at-edge", "nothing keeps its input between -1 and 1", value)
    return None


def _hyperbolic(node: Node) -> Found | None:
    value = node.argument(0, "input")
    bounds = bounds_of(value)
    if not isinstance(value, Node) or not value.depends_on_data or bounds.low != 1.0 or bounds.at_low is None:
        return None
    return Found("angle-at-edge", f"its input can be exactly 1: {bounds.at_low.text}", value, derivative=True)


def _atan2(node: Node) -> Found | None:
    y, x = node.argument(0, "input"), node.argument(1, "other")
    zeros = [bounds_of(part).zero for part in (y, x)]
    if not all(zeros) or not isinstance(y, Node) or zeros[0] is None:
        return None
    return Found("atan2-at-origin", zeros[0].text, y, derivative=True)


CHECKS: dict[str, tuple[Check, ...]] = {
    "acos": (_edge,),
    "asin": (_edge,),
    "atanh": (_edge,),
    "acosh": (_hyperbolic,),
    "atan2": (_atan2,),
}
