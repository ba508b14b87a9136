"""A deep copy that shares what cannot be copied, object by object, instead of failing as a whole.

It follows the protocol of ``copy.deepcopy`` (memo, ``__deepcopy__``, ``__reduce_ex__``) and differs in two ways:
functions are copied when they hold something that is; what stands for something outside of the process or of the
copy (locks, threads, process groups, data sets, objects with a finaliser) is shared, and what can be read only once
has a stand-in that cannot be read.
"""

from __future__ import annotations

import random
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from gradwatch.replica.once import ReadOnce, is_read_once

ATOMIC = frozenset(
    {types.NoneType, int, float, bool, complex, str, bytes, type, range, property, types.CodeType, types.EllipsisType}
    | {types.NotImplementedType, types.ModuleType, types.CoroutineType, types.MappingProxyType}
    | {torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format, np.memmap}
)
# What these define stands for something outside of the object. A copied queue would fill up, since the thread that
# empties it keeps to the original; a copied data set may not fit into memory.
SHARED_PACKAGES = frozenset(
    {"_thread", "threading", "multiprocessing", "concurrent", "asyncio", "queue", "socket", "subprocess", "logging"}
    | {"io", "_io", "contextvars", "torch.utils.data", "torch.distributed", "torch._C"}
)
GLOBAL_GENERATORS = (random._inst, np.random.mtrand._rand)  # noqa: SLF001 - no public name
# Not a fault of one object: the copy as a whole cannot be had.
FATAL = (RecursionError, MemoryError, torch.OutOfMemoryError)

Handler = Callable[["Copier", Any], Any]

_MISSING: Any = object()


class Copier:
    """One copy of a web of objects.

    Args:
        memo: by id, what takes the place of an object; nothing in it is copied again. Grows by every object met.
        handlers: how instances of a class, and of its subclasses, are copied.
    """

    def __init__(self, memo: dict[int, Any], handlers: Mapping[type, Handler]) -> None:
        self.memo = memo
        self.replaced = dict(memo)
        self._handlers = handlers
        self._by_class: dict[type, Handler] = dict(_BUILTIN)
        # As in copy.deepcopy: ids stay valid only while their objects live. Entered first, so that no undoing drops it.
        self._alive: list[Any] = memo.setdefault(id(memo), [])

    def copy(self, value: Any) -> Any:
        """Return the copy of ``value``, or ``value`` itself where it is immutable or to be shared."""
        cls = type(value)
        if cls in ATOMIC:
            return value
        known = self.memo.get(id(value), _MISSING)
        if known is not _MISSING:
            return known
        handler = self._by_class.get(cls)
        if handler is None:
            handler = self._by_class[cls] = self._handler(cls)
        copied = handler(self, value)
        if copied is not value:
            self.remember(value, copied)
        return copied

    def remember(self, value: Any, copied: Any) -> Any:
        """Enter ``copied`` for ``value``, so that what refers back to it is led to the copy."""
        if id(value) not in self.memo:
            self._alive.append(value)
        self.memo[id(value)] = copied
        return copied

    def attempt(self, value: Any, *ways: Handler) -> Any:
        """Return what the first way that works makes of ``value``, and ``value`` itself if none does."""
        for way in ways:
            before = len(self.memo)
            try:
                return way(self, value)
            except FATAL:
                raise
            except Exception:  # noqa: BLE001 - the whole purpose: one odd object must not spoil the copy of the others
                self.forget(before)
        return self.remember(value, value)

    def forget(self, length: int) -> None:
        """Shorten the memo to its first entries: the later ones were made on an attempt that has failed."""
        while len(self.memo) > length:
            self.memo.popitem()

    def _handler(self, cls: type) -> Handler:
        for base in cls.__mro__:
            if base in self._handlers:
                return self._handlers[base]
        if issubclass(cls, types.GeneratorType):
            return _stand_in
        if issubclass(cls, type) or _stands_for_something_else(cls):
            return _stand_in if is_read_once(cls) else _share
        return _copy_any


def _stands_for_something_else(cls: type) -> bool:
    """Whether instances are to be shared. The finaliser of a copy would release what the original still uses."""
    if hasattr(cls, "__del__"):
        return True
    prefixes = (str(base.__module__).split(".") for base in cls.__mro__)
    return any(".".join(parts[:count]) in SHARED_PACKAGES for parts in prefixes for count in range(1, 4))


def _stand_in(_: Copier, value: Any) -> Any:
    return ReadOnce(value)


def _share(_: Copier, value: Any) -> Any:
    return value


# -- containers --------------------------------------------------------------------------------------------------------


def _copy_list(copier: Copier, value: list[Any]) -> list[Any]:
    copied: list[Any] = copier.remember(value, [])
    copied.extend([copier.copy(item) for item in value])
    return copied


def _copy_dict(copier: Copier, value: dict[Any, Any]) -> dict[Any, Any]:
    copied: dict[Any, Any] = copier.remember(value, {})
    for key, item in list(value.items()):
        copied[copier.copy(key)] = copier.copy(item)
    return copied


def _copy_ordered(copier: Copier, value: OrderedDict[Any, Any]) -> Any:
    """A module has a dozen of them, mostly empty: ten times as quick as by reduction."""
    if vars(value):  # attributes of its own, as only a subclass has them by rights
        return _copy_any(copier, value)
    copied: OrderedDict[Any, Any] = copier.remember(value, OrderedDict())
    for key, item in list(value.items()):
        copied[copier.copy(key)] = copier.copy(item)
    return copied


def _copy_tuple(copier: Copier, value: tuple[Any, ...]) -> Any:
    items = tuple([copier.copy(item) for item in value])
    if id(value) in copier.memo:  # it holds itself, through one of its items
        return copier.memo[id(value)]
    return value if all(new is old for new, old in zip(items, value, strict=True)) else items


def _copy_array(copier: Copier, value: np.ndarray[Any, Any]) -> Any:
    return _copy_any(copier, value) if value.dtype.hasobject else value.copy(order="K")


# -- functions and references ------------------------------------------------------------------------------------------


def _copy_function(copier: Copier, value: types.FunctionType) -> Any:
    """Rebuild a function that holds, in its closure or its defaults, anything that is copied."""
    compiled = vars(value).get("_torchdynamo_orig_callable")
    if compiled is not None:
        return copier.copy(compiled)
    if value.__closure__ is None and "<" not in value.__qualname__:
        return value  # a function of a module or class belongs to nobody
    closure = value.__closure__ or ()
    cells = tuple(types.CellType() for _ in closure)
    rebuilt = types.FunctionType(value.__code__, value.__globals__, value.__name__, None, cells)
    before = len(copier.memo)
    copier.remember(value, rebuilt)  # before its cells: a recursive function holds itself
    changed = [_fill(copier, cell, original) for cell, original in zip(cells, closure, strict=True)]
    rebuilt.__defaults__ = copier.copy(value.__defaults__)
    rebuilt.__kwdefaults__ = copier.copy(value.__kwdefaults__)
    if not (any(changed) or rebuilt.__defaults__ is not value.__defaults__ or value.__kwdefaults__):
        copier.forget(before)
        return value
    rebuilt.__qualname__, rebuilt.__module__, rebuilt.__doc__ = value.__qualname__, value.__module__, value.__doc__
    rebuilt.__annotations__ = value.__annotations__
    rebuilt.__dict__.update(copier.copy(vars(value)))
    return rebuilt


def _fill(copier: Copier, cell: types.CellType, original: types.CellType) -> bool:
    """Put a copy of what ``original`` holds into ``cell``; return whether it differs."""
    try:
        held = original.cell_contents
    except ValueError:  # a name that has not been assigned yet
        return False
    cell.cell_contents = copier.copy(held)
    # A number may be counted up by the function.
    return cell.cell_contents is not held or isinstance(held, (int, float))


def _copy_method(copier: Copier, value: types.MethodType) -> types.MethodType:
    return types.MethodType(copier.copy(value.__func__), copier.copy(value.__self__))


def _copy_builtin(copier: Copier, value: Any) -> Any:
    """Rebind ``some_list.append``; functions of C modules and static methods have no owner."""
    owner = value.__self__
    if owner is None or isinstance(owner, (types.ModuleType, type)):
        return value
    copied = copier.copy(owner)
    return value if copied is owner else getattr(copied, value.__name__)


def _copy_reference(copier: Copier, value: weakref.ref[Any]) -> weakref.ref[Any]:
    """Lead a reference to the copy, if its target has one or will have one in any case."""
    target = value()
    if target is None or not (id(target) in copier.memo or isinstance(target, (torch.nn.Module, torch.Tensor))):
        return value
    return weakref.ref(copier.copy(target))


def _copy_proxy(copier: Copier, value: Any) -> Any:
    """As a reference, but what replaces the target is returned itself: nobody else may hold it."""
    target = proxied(value)
    if id(target) in copier.replaced:
        return copier.replaced[id(target)]
    return weakref.proxy(copier.copy(target)) if isinstance(target, torch.nn.Module) else value


def proxied(value: Any) -> Any:
    """Return what a proxy stands for, None when that is gone, and anything else as it is."""
    if type(value) not in weakref.ProxyTypes:
        return value
    try:
        return value.__repr__.__self__  # a bound method is the one way to reach it
    except (ReferenceError, AttributeError):
        return None


# -- everything else ---------------------------------------------------------------------------------------------------


def _copy_any(copier: Copier, value: Any) -> Any:
    """Copy by the object's own method or by its reduction; share it if neither works."""
    if any(value is generator for generator in GLOBAL_GENERATORS):
        return value
    if hasattr(type(value), "__deepcopy__"):
        return copier.attempt(value, by_own_method, by_reduction)
    return copier.attempt(value, by_reduction)


def by_own_method(copier: Copier, value: Any) -> Any:
    """Copy by ``__deepcopy__``."""
    return value.__deepcopy__(copier.memo)


def by_reduction(copier: Copier, value: Any) -> Any:
    """Copy as the standard library does: build from the arguments, then add state, items and keys."""
    reduced = value.__reduce_ex__(4)
    if isinstance(reduced, str):  # the name of a global
        return value
    build, arguments, state, items, pairs, setter = (*reduced, None, None, None, None)[:6]
    copied = copier.remember(value, build(*[copier.copy(argument) for argument in arguments]))
    if state is not None:
        _set_state(copied, copier.copy(state), setter)
    for item in items or ():
        copied.append(copier.copy(item))
    for key, item in list(pairs or ()):
        copied[copier.copy(key)] = copier.copy(item)
    return copied


def _set_state(value: Any, state: Any, setter: Callable[[Any, Any], object] | None) -> None:
    if setter is not None:
        setter(value, state)
    elif hasattr(value, "__setstate__"):
        value.__setstate__(state)
    else:
        attributes, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, {})  # noqa: PLR2004
        vars(value).update(attributes) if attributes else None
        for name, item in slots.items():
            object.__setattr__(value, name, item)


_BUILTIN: dict[type, Handler] = {
    list: _copy_list,
    dict: _copy_dict,
    OrderedDict: _copy_ordered,
    tuple: _copy_tuple,
    np.ndarray: _copy_array,
    types.FunctionType: _copy_function,
    types.MethodType: _copy_method,
    types.BuiltinFunctionType: _copy_builtin,
    types.MethodWrapperType: _copy_builtin,
    weakref.ReferenceType: _copy_reference,
    weakref.ProxyType: _copy_proxy,
    weakref.CallableProxyType: _copy_proxy,
}
