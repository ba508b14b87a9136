"""How a deep copy treats tensors, generators, optimizers and modules.

Tensors take neither gradients nor a graph with them; optimizers and modules leave behind what runs compiled code,
communicates, or was registered by others to act on the original.
"""

from __future__ import annotations

import copyreg
from collections import OrderedDict, defaultdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from gradwatch.replica.deepcopy import FATAL, by_own_method, by_reduction, proxied
from gradwatch.replica.tensors import clone_together

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradwatch.replica.deepcopy import Copier, Handler

# Attributes that Lightning's `from_compiled` puts on an instance in front of its own methods.
COMPILED = frozenset({"forward", "training_step", "validation_step", "test_step", "predict_step"})
WRAPPERS = {"OptimizedModule": "_orig_mod", "DistributedDataParallel": "module"}


def clone(tensor: Tensor) -> Tensor:
    """Return a detached copy in new memory."""
    return clone_together([tensor])[0]


def module_handlers(*, with_optimizer_state: bool) -> dict[type, Handler]:
    """Return the handlers for a module and its optimizers; what was computed from other tensors becomes a constant."""

    def copy_tensor(copier: Copier, value: Tensor) -> Tensor:
        return adopt(copier, value, None if is_lazy(value) else clone(value))

    def copy_any_optimizer(copier: Copier, value: Optimizer) -> Optimizer:
        return copy_optimizer(copier, value, with_state=with_optimizer_state)

    return {
        Tensor: copy_tensor,
        torch.Generator: copy_generator,
        Optimizer: copy_any_optimizer,
        nn.Module: copy_module,
    }


def batch_handlers(clone: Callable[[Tensor], Tensor]) -> dict[type, Handler]:
    """Return the handlers for a batch; a tensor that ``clone`` returns as it was is shared."""

    def copy_tensor(copier: Copier, value: Tensor) -> Tensor:
        data = clone(value)
        return value if data is value else adopt(copier, value, data, requires_grad=value.requires_grad)

    return {**module_handlers(with_optimizer_state=True), Tensor: copy_tensor}


# -- tensors -----------------------------------------------------------------------------------------------------------


def adopt(copier: Copier, value: Tensor, data: Tensor | None, *, requires_grad: bool | None = None) -> Tensor:
    """Enter ``data``, the memory of a copy, as the copy of ``value``: a leaf of its class, with its attributes.

    ``data`` is None for a lazy tensor, which has none yet. By default, the copy needs a gradient where ``value`` is a
    leaf that does.
    """
    if data is None:
        lazy: Any = type(value)
        copied: Tensor = lazy(requires_grad=value.requires_grad, device=value.data.device, dtype=value.data.dtype)
    else:
        copied = data if type(data) is type(value) else _as_class(type(value), data)
        copied.requires_grad_(value.requires_grad and value.is_leaf if requires_grad is None else requires_grad)
    copier.remember(value, copied)
    for name, attribute in vars(value).items():
        if name not in copied.__dict__:
            copied.__dict__[name] = copier.copy(attribute)
    return copied


def _as_class(cls: type[Tensor], data: Tensor) -> Tensor:
    """Return ``data`` as ``cls``: operations on a Parameter, and on subclasses of it, return plain tensors."""
    return nn.Parameter(data, False) if cls is nn.Parameter else torch.Tensor._make_subclass(cls, data, False)  # noqa: SLF001


def copy_generator(_: Copier, value: torch.Generator) -> torch.Generator:
    """Copy a generator with its state; the global ones are the same for original and copy."""
    if any(value is default for default in (torch.default_generator, *torch.cuda.default_generators)):
        return value
    copied = torch.Generator(device=value.device)
    copied.set_state(value.get_state())
    return copied


# -- optimizers --------------------------------------------------------------------------------------------------------


def copy_optimizer(copier: Copier, value: Optimizer, *, with_state: bool) -> Optimizer:
    """Copy an optimizer without its hooks and without the wrapper that a scheduler puts on ``step``."""
    copied: Optimizer = copier.remember(value, object.__new__(type(value)))
    for name, attribute in vars(value).items():
        if name.startswith("_optimizer_") and name.endswith("_hooks"):
            copied.__dict__[name] = OrderedDict()
        elif name == "state" and not with_state:
            copied.__dict__[name] = defaultdict(dict)
        elif name != "step":
            copied.__dict__[name] = copier.copy(attribute)
    return copied


# -- modules -----------------------------------------------------------------------------------------------------------


def copy_module(copier: Copier, value: nn.Module) -> Any:
    """Copy a module in the way that its class asks for, and if that fails attribute by attribute."""
    inner = unwrapped(value)
    if inner is not value:
        return copier.copy(inner)
    compiled = vars(value).get("_compiler_ctx")
    if compiled:
        copier.remember(compiled, None)
    copied = _with_replacements(copier, value, _copy_plain_module(copier, value))
    for name in COMPILED if compiled else ():
        copied.__dict__.pop(name, None)
    return copied


def _copy_plain_module(copier: Copier, value: nn.Module) -> Any:
    before = len(copier.memo)
    try:
        return _way(type(value))(copier, value)
    except FATAL:
        raise
    except Exception:  # noqa: BLE001 - whatever a class does wrong in its own method, its attributes can be copied
        copier.forget(before)
        return _by_attributes(copier, value)


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module inside of a wrapper that compiles it, or that communicates in its backward pass."""
    for base in type(module).__mro__:
        if base.__name__ in WRAPPERS and base.__module__.startswith("torch."):
            inner = vars(module)["_modules"].get(WRAPPERS[base.__name__])
            return module if inner is None else unwrapped(inner)
    return module


def _way(cls: type) -> Handler:
    custom = getattr(cls, "__deepcopy__", None)
    # A parametrized module brings a __deepcopy__ that does no more than copy its attributes.
    if custom is not None and custom.__module__ != "torch.nn.utils.parametrize":
        return by_own_method
    if custom is None and getattr(cls, "__getstate__", None) is not nn.Module.__getstate__:
        return by_reduction
    return _by_attributes


def _by_attributes(copier: Copier, value: nn.Module) -> nn.Module:
    copied: nn.Module = copier.remember(value, object.__new__(type(value)))
    for name, attribute in list(vars(value).items()):
        if name != "_compiled_call_impl":
            copied.__dict__[name] = copier.copy(attribute)
    for name in copyreg._slotnames(type(value)):  # type: ignore[attr-defined]  # noqa: SLF001 - as the standard library
        if hasattr(value, name):
            object.__setattr__(copied, name, copier.copy(getattr(value, name)))
    return copied


def _with_replacements(copier: Copier, value: nn.Module, copied: nn.Module) -> nn.Module:
    """Put in what ``__getstate__`` leaves out although it is to be replaced: Lightning drops its Trainer."""
    for name, attribute in list(vars(value).items()):
        target = proxied(attribute)
        if target is not None and id(target) in copier.replaced:
            copied.__dict__[name] = copier.replaced[id(target)]
    return copied
