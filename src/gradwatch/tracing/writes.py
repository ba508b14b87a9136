"""Which of PyTorch's Python functions write into a tensor that they are given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_IN_PLACE_OPERATORS = frozenset(
    f"__i{name}__" for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "matmul")
) | {"__setitem__", "__ilshift__", "__irshift__", "__idiv__"}


def writes_in_place(name: str, kwargs: Mapping[str, Any]) -> bool:
    """Whether a function, by its Python name, changes its first argument or the one that ``out`` names."""
    in_place = name.endswith("_") and not name.endswith("__")
    return in_place or name in _IN_PLACE_OPERATORS or kwargs.get("out") is not None or kwargs.get("inplace") is True
