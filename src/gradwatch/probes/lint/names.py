"""One name for each operation, whichever of its spellings the code uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from gradwatch.probes.lint.bounds import words
from gradwatch.probes.lint.node import Node

if TYPE_CHECKING:
    from collections.abc import Sequence

_SAME = {
    "true_divide": "div",
    "divide": "div",
    "multiply": "mul",
    "subtract": "sub",
    "negative": "neg",
    "absolute": "abs",
    "float_power": "pow",
    "log2": "log",
    "log10": "log",
    "clip": "clamp",
    "concat": "cat",
    "concatenate": "cat",
    "expit": "sigmoid",
    "log_sigmoid": "logsigmoid",
    "arccos": "acos",
    "arcsin": "asin",
    "arctanh": "atanh",
    "arccosh": "acosh",
    "arctan2": "atan2",
    "linalg_norm": "norm",
    "linalg_vector_norm": "norm",
    "linalg_matrix_norm": "norm",
    "frobenius_norm": "norm",
    "var_mean": "var",
    "std_mean": "std",
    "aminmax": "amin",
    "floordiv": "floor_divide",
    "truediv": "div",
    "max_pool2d_with_indices": "max_pool2d",
}
# Their first operand stands on the right.
_SWAPPED = {"__rsub__": "sub", "rsub": "sub", "__rdiv__": "div", "__rtruediv__": "div", "__rpow__": "pow"}
_OPERATORS = words(
    "add radd iadd sub isub mul rmul imul div idiv truediv itruediv floordiv pow ipow matmul getitem setitem "
    "gt lt ge le eq ne neg abs"
)
_OWN_UNDERSCORE = frozenset({"zero_", "fill_", "uniform_", "bernoulli_", "normal_", "detach_", "requires_grad_"})
_PROPERTIES = frozenset({"T", "mT", "H", "mH", "data", "real", "imag", "grad"})
_IGNORED = frozenset(
    {"__set__", "__delete__", "__repr__", "__hash__", "__format__", "__deepcopy__", "is_floating_point"}
)


class Name(NamedTuple):
    """What an operation is called. ``swapped``: its operands stand in the reverse order."""

    op: str
    swapped: bool = False
    in_place: bool = False
    ignored: bool = False


_names: dict[Any, Name] = {}


def name_of(func: Any) -> Name:
    """Return the name of a function that a function mode is given."""
    name = _names.get(func)
    if name is None:
        name = _names[func] = _name(func)
    return name


def _name(func: Any) -> Name:
    spelled = getattr(func, "__name__", "") or "unknown"
    if spelled == "__get__":
        attribute = getattr(getattr(func, "__self__", None), "__name__", "")
        return Name(attribute, ignored=attribute not in _PROPERTIES)
    if spelled in _SWAPPED:
        return Name(_SWAPPED[spelled], swapped=True)
    plain = spelled.strip("_") if spelled.startswith("__") else spelled
    in_place = spelled.endswith("_") and not spelled.startswith("__")
    if in_place and plain not in _OWN_UNDERSCORE:
        plain = plain.rstrip("_")
    if spelled.startswith("__") and plain in _OPERATORS:
        in_place = plain.startswith("i") or plain == "setitem"
        plain = plain if plain not in {"radd", "rmul"} else plain[1:]
        plain = plain.removeprefix("i") if in_place else plain
    elif spelled.startswith("__"):
        plain = spelled
    plain = plain.removeprefix("special_")
    return Name(_SAME.get(plain, plain), in_place=in_place, ignored=spelled in _IGNORED)


def normalized(name: Name, args: tuple[Any, ...], inputs: Sequence[Node]) -> tuple[tuple[Any, ...], list[Node]]:
    """Return arguments and inputs in the order of the formula."""
    if name.swapped and len(args) > 1:
        return (args[1], args[0], *args[2:]), list(reversed(inputs))
    if name.op == "where" and len(args) == 3 and not _is_condition(args[0]) and _is_condition(args[1]):  # noqa: PLR2004
        return (args[1], args[0], args[2]), list(inputs)  # a method: x.where(condition, other)
    return args, list(inputs)


def _is_condition(value: Any) -> bool:
    return isinstance(value, Node) and value.dtype in {torch.bool, torch.uint8}
