"""What is known of an operation from its schema: which arguments it writes to, and whether it computes at all."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from gradwatch.tracing.op_names import base_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# They put a number there that the user has written.
_MAKES = frozenset({"full", "full_like", "new_full", "scalar_tensor", "lift_fresh"})
_WRITES = frozenset({"fill", "masked_fill", "index_fill", "copy", "index_put", "scatter", "constant_pad_nd"})
_LITERAL = _MAKES | _WRITES
_COLLECTIVE_NAMESPACES = ("c10d", "_c10d_functional", "c10d_functional", "_c10d_functional_autograd")


class Operation(NamedTuple):
    """An operation as the trace needs it.

    ``writes``: names or positions of the arguments that it changes in place; ``fills``: positions of those among them
    whose values from before do not matter. ``view``: its outputs share memory with
    its inputs and nothing is computed. ``empty``: its output is uninitialised memory. ``pointwise``: element i of the
    output depends on element i of the inputs alone, after broadcasting.
    """

    name: str
    writes: tuple[tuple[int, str], ...]
    fills: frozenset[int]
    view: bool
    empty: bool
    literal: bool
    pointwise: bool
    collective: bool


@cache
def operation(func: Any) -> Operation:
    """Return what the schema of an ``OpOverload`` says."""
    schema = func._schema  # noqa: SLF001 - torch documents no public way to an overload's schema
    namespace, _, stem = schema.name.partition("::")
    writes = tuple(
        (position, argument.name)
        for position, argument in enumerate(schema.arguments)
        if (argument.alias_info is not None and argument.alias_info.is_write)
        or (namespace == "c10d" and _is_result(argument.name, stem))
    )
    aliases = [result.alias_info for result in schema.returns]
    name = base_name(schema.name)
    return Operation(
        name=name,
        writes=writes,
        fills=frozenset(p for p, argument in writes if namespace == "c10d" and argument.startswith("output")),
        view=bool(aliases) and all(alias is not None and not alias.is_write for alias in aliases),
        empty=stem.strip("_").startswith(("empty", "new_empty")),
        literal=name in _LITERAL,
        pointwise=torch.Tag.pointwise in func.tags or name in {"where", "masked_fill"},
        collective=namespace in _COLLECTIVE_NAMESPACES,
    )


def _is_result(argument: str, stem: str) -> bool:
    """Whether a collective writes to an argument: the schemas of ``c10d`` do not say."""
    return argument.startswith("output") or (argument == "tensors" and stem.endswith("_"))


def inputs_in(what: Operation, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Return the tensors that the operation reads."""
    return tensors_in([value for position, value in enumerate(args) if position not in what.fills], kwargs)


def tensors_in(*values: Any) -> list[Tensor]:
    """Return the tensors among arguments, also in lists."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += tensors_in(*value)
        elif isinstance(value, dict) and value:
            found += tensors_in(*value.values())
    return found


def written(what: Operation, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Return the tensors that the operation changes in place."""
    targets = [
        args[position] if position < len(args) else kwargs.get(name)
        for position, name in what.writes
        if position < len(args) or name in kwargs
    ]
    return tensors_in(targets)


def numbers_in(*values: Any) -> list[float]:
    """Return the plain numbers among arguments, booleans left out."""
    found: list[float] = []
    for value in values:
        if isinstance(value, float):
            found.append(value)
        elif isinstance(value, int):
            if not isinstance(value, bool) and abs(value) < 2**1000:
                found.append(float(value))
        elif isinstance(value, (list, tuple)):
            found += numbers_in(*value)
        elif isinstance(value, dict) and value:
            found += numbers_in(*value.values())
    return found


def literal_infinities(numbers: Sequence[float]) -> tuple[bool, bool]:
    """Return whether +inf and -inf are among the numbers that the user has written."""
    return any(number == math.inf for number in numbers), any(number == -math.inf for number in numbers)
