"""PyTorch's Python functions seen one by one, in the forward pass and in what a backward pass computes anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import torch
from torch.overrides import TorchFunctionMode

from gradwatch.tracing import autograd_internals as internals
from gradwatch.tracing.custom_functions import ApplicationWatch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager
    from types import TracebackType

    from gradwatch.tracing.custom_functions import Applied


class FunctionMode(TorchFunctionMode):
    """A mode that stays on inside of a backward pass, where checkpointed forwards run again.

    Not in the backward of a custom ``autograd.Function``: what its author wrote there is no function of the weights.

    Args:
        around: what the application of a custom function goes through, as in ``ApplicationWatch``; without it they
            are not watched.

    """

    def __init__(self, around: Applied | None = None) -> None:
        super().__init__()
        self._applications = None if around is None else ApplicationWatch(around)
        self._entered = 0

    @property
    def depth(self) -> int:
        """How many applications of the user's own functions are under way; 0 where they are not watched."""
        return self._applications.depth if self._applications is not None else 0

    def __enter__(self) -> Self:
        if self._applications is not None and not self._entered:  # a backward pass enters the mode again
            self._applications.__enter__()
        self._entered += 1
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)  # type: ignore[no-untyped-call]
        self._entered -= 1
        if self._applications is not None and not self._entered:
            self._applications.__exit__(kind, error, traceback)

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one function, by ``call`` unless it is none of the step's own."""
        kwargs = kwargs or {}
        if func in _BACKWARDS:
            with internals.around_engine(lambda: self):  # PyTorch has taken the mode off for the length of this call
                return self.call(func, args, kwargs)
        node = internals.current_node()
        if node is not None and internals.custom_function(node) is not None:
            return func(*args, **kwargs)
        return self.call(func, args, kwargs)

    def call(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run one function. Functions that it calls itself are not seen."""
        return func(*args, **kwargs)


_BACKWARDS = frozenset({torch.Tensor.backward, torch.autograd.backward, torch.autograd.grad})


def unseen() -> AbstractContextManager[object]:
    """Return a context in which no mode sees what PyTorch's functions do: a look at a value is no part of a step."""
    context: AbstractContextManager[object] = torch._C.DisableTorchFunction()  # noqa: SLF001 - no public one for modes
    return context
