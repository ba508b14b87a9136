"""Bounds of tensors that are made from numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradwatch.probes.lint.bounds import UNKNOWN, Bounds, Why, exactly, words
from gradwatch.probes.lint.node import Node

if TYPE_CHECKING:
    from collections.abc import Callable

# They depend neither on the batch nor on random numbers.
CONSTANT = words(
    "tensor zeros ones full eye arange linspace logspace zeros_like ones_like full_like new_zeros new_ones new_full "
    "new_tensor scalar_tensor tril_indices triu_indices hann_window hamming_window empty empty_like new_empty "
    "zero_ fill_"
)


def _full(node: Node) -> Bounds:
    value = node.argument(_VALUE_AT[node.op], "fill_value", "value")
    if isinstance(value, Node):
        return value.bounds
    return exactly(float(value)) if isinstance(value, (int, float)) else UNKNOWN


_VALUE_AT = {"full": 1, "full_like": 1, "new_full": 2, "fill_": 1}


def _literal(node: Node) -> Bounds:
    value = node.argument(0, "data", "s")
    return exactly(float(value)) if isinstance(value, (int, float)) else UNKNOWN


def _uniform(node: Node) -> Bounds:
    low, high = node.argument(1, "from", default=0.0), node.argument(2, "to", default=1.0)
    if not isinstance(low, (int, float)) or not isinstance(high, (int, float)):
        return UNKNOWN
    return Bounds(float(low), float(high), Why(f"a draw from [{low}, {high}) is {low} now and then", rare=True))


def _zeros(_: Node) -> Bounds:
    return exactly(0.0)


def _ones(_: Node) -> Bounds:
    return exactly(1.0)


CREATION: dict[str, Callable[[Node], Bounds]] = {
    **dict.fromkeys(("zeros", "zeros_like", "new_zeros", "zero_"), _zeros),
    **dict.fromkeys(("ones", "ones_like", "new_ones"), _ones),
    **dict.fromkeys(_VALUE_AT, _full),
    **dict.fromkeys(("tensor", "scalar_tensor"), _literal),
    "rand_like": lambda _: Bounds(0.0, 1.0, Why("torch.rand_like draws exactly 0 once in 2^24 numbers", rare=True)),
    "uniform_": _uniform,
    "eye": lambda _: Bounds(0.0, 1.0),
    "arange": lambda _: UNKNOWN,
    "bernoulli_": lambda _: Bounds(0.0, 1.0, Why("a draw may be 0 everywhere"), Why("a draw may be 1 everywhere")),
}
