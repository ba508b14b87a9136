"""A step in float64, whatever its code says: requests for a narrower format are answered in the wide one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradwatch.tracing.custom_functions import is_users_own
from gradwatch.tracing.function_mode import FunctionMode
from gradwatch.tracing.writes import writes_in_place

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

WIDE: dict[torch.dtype, torch.dtype] = {
    torch.float32: torch.float64,
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.complex64: torch.complex128,
    torch.complex32: torch.complex128,
}
_CASTS: dict[Any, Any] = {
    Tensor.float: Tensor.double,
    Tensor.half: Tensor.double,
    Tensor.bfloat16: Tensor.double,
    torch.Tensor.cfloat: torch.Tensor.cdouble,  # type: ignore[attr-defined]
    Tensor.chalf: torch.Tensor.cdouble,  # type: ignore[attr-defined]
}
_TYPE_NAMES = {f"torch.{kind}Tensor": "torch.DoubleTensor" for kind in ("Float", "Half", "BFloat16")}
_TYPES = (torch.FloatTensor, torch.HalfTensor, torch.BFloat16Tensor)
# What is asked about a tensor, not computed from it: a copy would answer for another.
_ABOUT_IT = frozenset(
    {"__get__", "__set__", "__delete__", "register_hook", "register_post_accumulate_grad_hook", "requires_grad_"}
    | {"retain_grad", "set_", "is_floating_point", "is_complex", "data_ptr", "untyped_storage", "__repr__"}
)


class Float64Mode(FunctionMode):
    """While entered, tensors that a step makes or casts are float64, and narrower ones are widened where they are used.

    Autocast needs no switching off: it leaves float64 tensors alone. What runs below PyTorch's Python functions
    (TorchScript, kernels of third parties) is not reached.
    """

    def __init__(self) -> None:
        super().__init__(_apply_widened)

    def call(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run one function in float64."""
        name = getattr(func, "__name__", "")
        if name in _ABOUT_IT:
            return func(*args, **kwargs)
        if writes_in_place(name, kwargs):  # into memory that somebody else may look at
            return func(*args[:1], *map(widened, args[1:]), **kwargs)
        result = _CASTS.get(func, func)(*map(widened, args), **{key: widened(item) for key, item in kwargs.items()})
        return widened(result) if isinstance(result, Tensor) else result


def _apply_widened(cls: type, args: tuple[Any, ...], apply: Callable[..., Any]) -> Any:
    """A custom function is given what it is given, by no function that a mode would see."""
    return apply(*map(widened, args)) if is_users_own(cls) else apply(*args)


def widened(value: Any) -> Any:  # noqa: PLR0911 - one return for each kind of value
    """Return tensors, formats and names of tensor types in their wide counterpart, also in lists, tuples and dicts."""
    if isinstance(value, Tensor):
        wide = WIDE.get(value.dtype)
        return value if wide is None else value.to(wide)
    if isinstance(value, torch.dtype):
        return WIDE.get(value, value)
    if isinstance(value, str):
        return _TYPE_NAMES.get(value, value)
    if isinstance(value, type):
        return torch.DoubleTensor if any(value is one for one in _TYPES) else value
    if type(value) in {list, tuple}:
        return type(value)(map(widened, value))
    if type(value) is dict:
        return {key: widened(item) for key, item in value.items()}
    return value
