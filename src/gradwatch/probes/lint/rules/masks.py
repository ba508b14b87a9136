"""Numbers that a dtype cannot hold: masks that overflow, and limits that round to what they were to keep away."""

from __future__ import annotations

import math
from typing import Any

import torch

from gradwatch.probes.lint.arithmetic import MASK, clamp_limits
from gradwatch.probes.lint.bounds import Why, rounded
from gradwatch.probes.lint.node import Node, bounds_of, constant, is_node, operands, origin
from gradwatch.probes.lint.rules.found import Check, Found, dtype_name

_EDGES = (0.0, 1.0, -1.0)


def _clamp(node: Node) -> Found | None:
    for limit in clamp_limits(node):
        c = constant(limit)
        if c is None or not node.dtype.is_floating_point:
            continue
        kept = rounded(c, node.dtype)
        if kept != c and kept in _EDGES:
            return Found("clamp-without-effect", f"{_exact(c)} is {kept:g} in {dtype_name(node.dtype)}", node)
    return None


def _exact(c: float) -> str:
    near = 1.0 - abs(c)
    return f"{'-' if c < 0 else ''}(1 - {near:.1g})" if 0.0 < near < 1e-3 else f"{c:g}"  # noqa: PLR2004


def _sum(node: Node) -> Found | None:
    left, right = operands(node)
    if not node.dtype.is_floating_point:
        return None
    limit = torch.finfo(node.dtype).min
    masks = [part for part in (left, right) if _mask(part) is not None]
    total = sum(bounds_of(part).low for part in masks)
    if len(masks) == 2 and -math.inf < total and rounded(total, node.dtype) == -math.inf:  # noqa: PLR2004
        return Found("mask-overflow", f"both masks reach down to {bounds_of(masks[0]).low:g}", masks[0])
    scores = [part for part in (left, right) if _mask(part) is None and isinstance(part, Node)]
    if len(masks) == 1 and scores and node.dtype is torch.float16 and bounds_of(masks[0]).low <= limit:
        if not -math.inf < bounds_of(masks[0]).low:
            return None
        return Found("mask-overflow", "a score below -16 is added to the most negative number", masks[0])
    return None


def _mask(value: Any) -> Why | None:
    if not isinstance(value, Node):
        return None
    why = value.bounds.at_low
    if why is not None and why.mask:
        return why
    c = value.bounds.constant
    return Why("", mask=True) if c is not None and c <= MASK else None


def _product(node: Node) -> Found | None:
    left, right = operands(node)
    c = constant(right) if constant(right) is not None else constant(left)
    if c is None or not node.dtype.is_floating_point or not math.isfinite(c):
        return None
    value = left if constant(right) is not None else right
    if node.op == "mul" and abs(c) >= -MASK and math.isinf(rounded(c, node.dtype)) and isinstance(value, Node):
        return Found("mask-beyond-range", f"{c:g} is infinite in {dtype_name(node.dtype)}", None)
    if _mask(value) is None or not isinstance(value, Node):
        return None
    low = value.bounds.low * (c if node.op == "mul" else 1.0 / c if c else 1.0)
    if c > 0.0 and -math.inf < value.bounds.low and rounded(low, node.dtype) == -math.inf:
        return Found("mask-overflow", f"a mask of {value.bounds.low:g} is scaled", value)
    return None


def _cast(node: Node) -> Found | None:
    value = origin_of_cast(node)
    if value is None or _mask(value) is None or not node.dtype.is_floating_point:
        return None
    low = value.bounds.low
    if -math.inf < low and rounded(low, node.dtype) == -math.inf:
        return Found("mask-beyond-range", f"{low:g} is infinite in {dtype_name(node.dtype)}", None)
    return None


def origin_of_cast(node: Node) -> Node | None:
    """Return what is cast, None if the dtype stays."""
    value = node.inputs[0] if node.inputs else None
    return value if value is not None and value.dtype is not node.dtype and is_node(origin(value)) else None


CHECKS: dict[str, tuple[Check, ...]] = {
    "clamp": (_clamp,),
    "clamp_min": (_clamp,),
    "clamp_max": (_clamp,),
    "add": (_sum,),
    "mul": (_product,),
    "div": (_product,),
    **dict.fromkeys(("to", "type_as", "half", "bfloat16", "type"), (_cast,)),
}
