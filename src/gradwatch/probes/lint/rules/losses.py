"""Losses that are given probabilities where they expect logits or logarithms, and the other way round."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradwatch.probes.lint.node import Node, is_node, origin
from gradwatch.probes.lint.rules.found import Check, Found

if TYPE_CHECKING:
    from typing import Any

_SOFTMAX = ("softmax", "gumbel_softmax", "softmax2d")


def _input(node: Node) -> Any:
    return origin(node.argument(0, "input"))


def _bce(node: Node) -> Found | None:
    source = _input(node)
    if not is_node(source, "sigmoid"):
        return None
    return Found("bce-of-sigmoid", source.bounds.at_high.text if source.bounds.at_high else "it saturates", source)


def _nll(node: Node) -> Found | None:
    source = _input(node)
    if not is_node(source, *_SOFTMAX, "sigmoid"):
        return None
    return Found("nll-of-probabilities", f"{node.op} is given the output of {source.op}", source)


def _cross_entropy(node: Node) -> Found | None:
    source = _input(node)
    if not is_node(source, *_SOFTMAX, "sigmoid"):
        return None
    return Found("double-softmax", f"cross_entropy is given the output of {source.op}", source)


def _with_logits(node: Node) -> Found | None:
    source = _input(node)
    if not is_node(source, *_SOFTMAX, "sigmoid"):
        return None
    return Found("double-sigmoid", f"the loss is given the output of {source.op}", source)


CHECKS: dict[str, tuple[Check, ...]] = {
    "binary_cross_entropy": (_bce,),
    "nll_loss": (_nll,),
    "kl_div": (_nll,),
    "cross_entropy": (_cross_entropy,),
    "binary_cross_entropy_with_logits": (_with_logits,),
}
