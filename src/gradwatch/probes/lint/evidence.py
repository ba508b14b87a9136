"""The numbers of this batch that go with a finding."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from gradwatch.numerics import summarize

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from gradwatch.probes.lint.node import Node
    from gradwatch.probes.lint.rules.found import Found


def evidence_of(node: Node, found: Found, tensors: Mapping[int, Tensor]) -> dict[str, Any]:
    """Return plain values: operation, dtype and shape, and the range of the operand that the finding is about.

    Args:
        node: the operation.
        found: what a check has found.
        tensors: the inputs by the ``id`` of their nodes; empty where the operation has overwritten them.
    """
    about = tensors.get(id(found.about)) if found.about is not None else None
    if about is None:
        about = next((tensor for tensor in tensors.values() if tensor.is_floating_point()), None)
    evidence: dict[str, Any] = {"op": node.op, "dtype": str(node.dtype).removeprefix("torch."), "shape": [*node.shape]}
    if about is None:
        return evidence
    try:
        with torch.no_grad():
            summary = summarize(about.detach())
        low, high, zeros = float(summary.min), float(summary.max), int(summary.zeros)
    except (RuntimeError, NotImplementedError, TypeError):  # tensors without values, as under vmap
        return evidence
    if math.isfinite(low) and math.isfinite(high):
        evidence |= {"min": low, "max": high}
    return {**evidence, "zeros": zeros}
