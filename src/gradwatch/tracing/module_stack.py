"""Which module's forward is running, by its path in the watched module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Self

from torch.nn.modules import module as module_hooks

if TYPE_CHECKING:
    from types import TracebackType

    from torch import nn


class Location(NamedTuple):
    """A module: its dotted path ("" for the watched module itself) and the name of its class."""

    path: str
    type: str


class ModuleStack:
    """While entered, follows the forward calls of a module and its submodules.

    A forward that is recomputed in a backward pass, as by activation checkpointing, is followed like any other.
    """

    def __init__(self, root: nn.Module) -> None:
        self._root = Location("", type(root).__name__)
        self._names = {
            id(module): (module, Location(_plain(name), type(module).__name__)) for name, module in _all(root)
        }
        self._stack: list[nn.Module] = []
        self._handles: list[Any] = []

    @property
    def top(self) -> Location:
        """The innermost running module; the root where none is running."""
        return self._names[id(self._stack[-1])][1] if self._stack else self._root

    @property
    def running(self) -> bool:
        """Whether a forward of the watched module or of one in it is running."""
        return bool(self._stack)

    def __enter__(self) -> Self:
        # Hooks for all modules: they see submodules made during the step too, and leave those of the module alone.
        self._handles = [
            module_hooks.register_module_forward_pre_hook(self._enter),
            module_hooks.register_module_forward_hook(self._leave, always_call=True),
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def _enter(self, module: nn.Module, _inputs: Any) -> None:
        if id(module) in self._names:
            self._stack.append(module)

    def _leave(self, module: nn.Module, _inputs: Any, _output: Any) -> None:
        # A forward that raised was left without this call where other hooks failed first: leave what it entered too.
        while any(entered is module for entered in self._stack):
            if self._stack.pop() is module:
                break


def _all(root: nn.Module) -> list[tuple[str, nn.Module]]:
    return list(root.named_modules())


def _plain(name: str) -> str:
    """Return the path without the wrappers that compilation and checkpointing put around a module."""
    return ".".join(part for part in name.split(".") if part not in {"_orig_mod", "_checkpoint_wrapped_module"})
