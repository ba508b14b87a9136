"""Hooks that change a gradient on its way: what the gradient would be without them."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from gradwatch.records import Explanation
from gradwatch.replica.once import do_nothing
from gradwatch.replica.tensors import weights_of
from gradwatch.tracing.function_mode import FunctionMode
from gradwatch.tracing.source import definition_of, user_place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from gradwatch.records import SourceLine
    from gradwatch.replica.copying import SideCopy

_LIGHTNING = ("on_after_backward", "on_before_optimizer_step")


class HooksSilenced(FunctionMode):
    """Runs a step without its hooks: ``strip`` takes those of the copy, the mode those that the step registers.

    Attributes:
        found: what was left out, by source line.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[SourceLine | None, None] = {}

    def strip(self, copy: SideCopy) -> None:
        """Take every hook that sees a gradient from the copy."""
        for tensor in weights_of(copy.module, copy.optimizers):
            hooks: dict[int, Any] | None = tensor._backward_hooks  # noqa: SLF001 - no getter
            if hooks:
                self._note(hooks.values())
                hooks.clear()
        for module in copy.module.modules():
            for registered in (module._backward_hooks, module._backward_pre_hooks):  # noqa: SLF001 - as above
                self._note(registered.values())
                registered.clear()
        for name in _LIGHTNING:
            method = getattr(type(copy.module), name, None)
            if method is not None and _overridden(method):
                self._note([method])
                setattr(copy.module, name, do_nothing)

    def call(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Register no hook that a step asks for."""
        if func is Tensor.register_hook:
            place = user_place()
            self.found.setdefault(place.source_line() if place else None)
            return RemovableHandle(OrderedDict())
        return func(*args, **kwargs)

    def explanations(self) -> list[Explanation]:
        """Return the hooks' lines."""
        return [
            Explanation(kind="hook", source=line, message="a hook changes the gradient on its way")
            for line in self.found
        ]

    def _note(self, hooks: Iterable[Callable[..., Any]]) -> None:
        for hook in hooks:
            self.found.setdefault(definition_of(hook))


def _overridden(method: Callable[..., Any]) -> bool:
    return not method.__module__.startswith(("lightning.", "pytorch_lightning."))
