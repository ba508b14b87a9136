"""The side copy of a module and its optimizers, on which a step can be run while training notices nothing."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gradwatch.replica.deepcopy import Copier
from gradwatch.replica.tensors import clone_together, held_tensors, weights_of
from gradwatch.replica.torch_handlers import adopt, module_handlers, unwrapped

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch.optim import Optimizer

_NOTHING: Mapping[int, object] = MappingProxyType({})


class SideCopy:
    """A module, the optimizers that step it, and which parameter of theirs stands for which of the original."""

    def __init__(self, module: nn.Module, optimizers: list[Optimizer], parameters: dict[Tensor, Tensor]) -> None:
        self.module = module
        self.optimizers = optimizers
        self._parameters = parameters

    def parameter_of(self, original: Tensor) -> Tensor:
        """Return the copy of a parameter.

        Raises:
            KeyError: it was a parameter of neither the module nor one of the optimizers.
        """
        return self._parameters[original]


def side_copy(
    module: nn.Module,
    optimizers: Sequence[Optimizer] = (),
    *,
    replaced: Mapping[int, object] = _NOTHING,
    share_weights: bool = False,
    with_optimizer_state: bool = False,
) -> SideCopy:
    """Return a copy of ``module`` that gives the same loss and gradients, and shares nothing that a step changes.

    The copy has no gradients. What cannot be copied (locks, files, threads, process groups) or would be too large
    (data sets) is the same object in both. Wrappers that compile a module or communicate are left out.

    Args:
        module: the module, in whatever state; nothing about it changes.
        optimizers: theirs come in the same order, without hooks.
        replaced: by id, objects of which no copy is made and what takes their place.
        share_weights: let the copied parameters share the memory of the originals. They have gradients of their own.
        with_optimizer_state: copy the state of the optimizers too; otherwise it is empty.

    Raises:
        RuntimeError: out of memory, or a tensor that cannot be cloned.
        RecursionError: objects are nested too deeply.
    """
    copier = Copier(dict(replaced), module_handlers(with_optimizer_state=with_optimizer_state))
    # Outside of inference mode: what is made within it can never take part in a backward pass.
    with torch.inference_mode(False), torch.no_grad():
        parameters = weights_of(module, optimizers)
        originals = _copy_tensors(copier, parameters, module, share_weights=share_weights)
        copied = copier.copy(module)
        copied_optimizers = [copier.copy(optimizer) for optimizer in optimizers]
        pairs = {parameter: copier.copy(parameter) for parameter in parameters}
        pairs.update(_matched_by_name(module, copied))
        _register_hooks(copier, originals)
    for original, parameter in pairs.items():  # a class that copies itself may do as it likes
        parameter.grad = None
        if parameter.requires_grad is not original.requires_grad:
            parameter.requires_grad_(original.requires_grad)
    return SideCopy(copied, copied_optimizers, pairs)


def _copy_tensors(copier: Copier, parameters: list[Tensor], module: nn.Module, *, share_weights: bool) -> list[Tensor]:
    """Copy first all tensors that the module holds, together, so that those which share memory still do.

    Returns the originals.
    """
    known = set(parameters)
    others = [tensor for tensor in dict.fromkeys(held_tensors(module)) if tensor not in known and not is_lazy(tensor)]
    weights = [parameter for parameter in parameters if not is_lazy(parameter)]
    if share_weights:
        # As `detach`, but writes do not count for the original: a graph in flight would refuse its backward pass.
        copies = [*(weight.data for weight in weights), *clone_together(others)]
    else:
        copies = clone_together([*weights, *others])
    for tensor, data in zip([*weights, *others], copies, strict=True):
        if id(tensor) not in copier.memo:
            adopt(copier, tensor, data)
    return [*weights, *others]


def _matched_by_name(module: nn.Module, copied: nn.Module) -> dict[Tensor, Tensor]:
    """Return the pairs that a class has made by a copying of its own, as TorchScript does."""
    originals = dict(unwrapped(module).named_parameters(remove_duplicate=False))
    copies = dict(copied.named_parameters(remove_duplicate=False))
    return {parameter: copies[name] for name, parameter in originals.items() if name in copies}


def _register_hooks(copier: Copier, originals: Iterable[Tensor]) -> None:
    """Register tensor hooks again, the functions in them led to the copy.

    Hooks that run after a gradient has been accumulated are left out: they may step the real optimizer.
    """
    for original in originals:
        copied = copier.memo[id(original)]
        hooks: dict[int, Any] | None = original._backward_hooks if original.is_leaf else None  # noqa: SLF001 - no getter
        if hooks and copied.requires_grad:
            for hook in list(hooks.values()):
                copied.register_hook(copier.copy(hook))
