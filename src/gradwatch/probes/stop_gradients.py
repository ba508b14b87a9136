"""Where a step keeps gradients from flowing on purpose: recorded once, and held constant while weights are moved.

If the numerical derivative agrees with autograd's as soon as these values stay what they were, the two differed
because of them and of nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import CheckpointFunction

from gradwatch.records import Explanation
from gradwatch.tracing.function_mode import FunctionMode
from gradwatch.tracing.source import Place, user_place
from gradwatch.tracing.writes import writes_in_place

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

_DATA = Tensor.data.__get__  # type: ignore[attr-defined]
_SET_DATA = Tensor.data.__set__  # type: ignore[attr-defined]
_REQUIRES_GRAD = Tensor.requires_grad.__set__  # type: ignore[attr-defined]
_NUMBERS = frozenset({"item", "tolist", "numpy", "__float__", "__int__", "__index__", "__array__", "__complex__"})
_NO_VALUES = frozenset(
    {"__get__", "__set__", "__delete__", "requires_grad_", "register_hook", "retain_grad", "backward"}
)
_MESSAGES = {
    "detach": "detach() ends the gradient here",
    "data": ".data ends the gradient here",
    "no_grad": "this is computed with gradients switched off",
    "grad": "autograd.grad without create_graph=True returns constants",
    "sample": "torch.normal draws without a gradient to its mean and std (rsample has one)",
    "frozen": "requires_grad is switched off here",
    "number": "this becomes a plain number, which takes no gradient along",
}


ALL_KINDS = frozenset(_MESSAGES)


class OtherPathError(RuntimeError):
    """The step stops gradients elsewhere than when it was recorded."""


class Stop(NamedTuple):
    """One value through which no gradient flows."""

    kind: str
    place: Place | None
    value: Any


class StopGradients:
    """The stops of one step, recorded by one mode and held constant by others."""

    def __init__(self, kinds: Collection[str] = ALL_KINDS) -> None:
        self._stops: list[Stop] = []
        self._moving: set[int] = set()
        self._kinds = kinds

    def __len__(self) -> int:
        return len(self._stops)

    def recorder(self) -> FunctionMode:
        """Return a mode that records every stop of a step."""
        self._stops.clear()
        self._moving.clear()
        return _StopMode(self._stops, None)

    def held(self) -> FunctionMode:
        """Return a mode under which every stop of ``kinds`` has the value that was recorded."""
        return _StopMode(self._stops, self._moving, self._kinds)

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of the stops that were recorded."""
        return frozenset(stop.kind for stop in self._stops)

    def explanations(self) -> list[Explanation]:
        """Return the lines whose value would have moved with the weights, once each."""
        found: dict[tuple[str, Place | None], None] = {}
        for index in sorted(self._moving):
            stop = self._stops[index]
            found.setdefault((stop.kind, stop.place))
        return [
            Explanation(kind=kind, source=place.source_line() if place else None, message=_MESSAGES[kind])  # type: ignore[arg-type]
            for kind, place in found
        ]


class _StopMode(FunctionMode):
    """Records stops, or with ``moving`` plays them back and notes the indices of those that would have moved."""

    def __init__(self, stops: list[Stop], moving: set[int] | None, kinds: Collection[str] = ALL_KINDS) -> None:
        super().__init__(_without_checkpoint)
        self._stops, self._moving, self._kinds, self._next = stops, moving, kinds, 0
        self._frozen: dict[int, Tensor] = {}

    def call(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run one function; what it returns is a constant if it stops the gradient."""
        if _switches(func, args):
            return self._switched(func, args, kwargs)
        if func == _SET_DATA:
            # What is computed from here on is off by a constant, and gets the gradient of what was there before.
            offset = self._constant("data", args[1] - args[0].detach()) if args[1].shape == args[0].shape else None
            return func(args[0], args[1] if offset is None else args[0].detach() + offset)
        if func is functional.gumbel_softmax and kwargs.get("hard"):
            soft = func(*args, **{**kwargs, "hard": False})
            offset = self._constant("detach", _one_hot(soft, kwargs.get("dim", -1)) - soft.detach())
            return offset + soft
        kind = None if self.depth else _kind(func, args, kwargs)
        result = func(*args, **kwargs)
        if kind is None:
            return result
        in_place = writes_in_place(getattr(func, "__name__", ""), kwargs)
        target = _written(args, kwargs) if in_place else result
        kept = self._constant(kind, target)
        if in_place:
            with torch.no_grad():
                _put(target, kept)
            return result
        return kept

    def _switched(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """While a weight requires no gradient, it is a constant; afterwards it is where it was."""
        weight = args[0]
        on = bool((args[1:] or tuple(kwargs.values()) or (True,))[0])
        if on and id(weight) in self._frozen:
            weight.data = self._frozen.pop(id(weight))
        elif not on and weight.requires_grad:
            self._frozen[id(weight)] = weight.data
            weight.data = self._constant("frozen", weight.data)
        return func(*args, **kwargs)

    def _constant(self, kind: str, value: Any) -> Any:
        if self._moving is None:
            self._stops.append(Stop(kind, user_place(), _copy(value)))
            return value
        index, self._next = self._next, self._next + 1
        if index >= len(self._stops) or self._stops[index].kind != kind:
            raise OtherPathError(f"{kind} where there was none at the first time")
        if kind not in self._kinds:
            return value
        recorded = self._stops[index].value
        if not _same(value, recorded):
            self._moving.add(index)
        return _copy(recorded)


def _kind(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:  # noqa: PLR0911 - one for each kind
    name = getattr(func, "__name__", "")
    if func == _DATA:  # each look-up of a getter makes a new object
        return "data" if args[0].requires_grad else None
    if func is torch.autograd.grad:
        return None if kwargs.get("create_graph") else "grad"
    if func is torch.normal and any(isinstance(arg, Tensor) and arg.requires_grad for arg in args):
        return "sample"
    if name in _NO_VALUES:
        return None
    needs_gradient = bool(args) and isinstance(args[0], Tensor) and args[0].requires_grad
    if name in {"detach", "detach_"}:
        return "detach" if needs_gradient else None
    if name in _NUMBERS:
        return "number" if needs_gradient else None
    return None if torch.is_grad_enabled() else "no_grad"


def _without_checkpoint(cls: type, args: tuple[Any, ...], apply: Callable[..., Any]) -> Any:
    """Run what a reentrant checkpoint runs with gradients switched off as it will run in the backward pass."""
    if cls is not CheckpointFunction:
        return apply(*args)
    function, _preserve, *given = args
    return function(*given)


def _switches(func: Any, args: Sequence[Any]) -> bool:
    """Whether a leaf's ``requires_grad`` is set."""
    setter = func == _REQUIRES_GRAD and len(args) > 1
    return (setter or func is Tensor.requires_grad_) and args[0].is_leaf


def _one_hot(soft: Tensor, dim: int) -> Tensor:
    index = soft.max(dim, keepdim=True)[1]
    return torch.zeros_like(soft, memory_format=torch.legacy_contiguous_format).scatter_(dim, index, 1.0)


def _written(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    return kwargs["out"] if kwargs.get("out") is not None else args[0]


def _put(target: Any, value: Any) -> None:
    if isinstance(target, Tensor):
        target.copy_(value)
    elif isinstance(target, (list, tuple)):
        for one, other in zip(target, value, strict=True):
            _put(one, other)


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if type(value) in {list, tuple}:
        return type(value)(map(_copy, value))
    if isinstance(value, tuple):  # torch.return_types
        return type(value)(tuple(map(_copy, value)))
    return value.copy() if hasattr(value, "__array__") else value


def _same(value: Any, recorded: Any) -> bool:
    if isinstance(value, Tensor):
        same_form = isinstance(recorded, Tensor) and value.shape == recorded.shape
        return same_form and torch.equal(value.detach(), recorded)
    if isinstance(value, (list, tuple)):
        return len(value) == len(recorded) and all(map(_same, value, recorded))
    return bool((value == recorded).all()) if hasattr(value, "__array__") else bool(value == recorded)
