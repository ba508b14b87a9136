"""PyTorch's Python functions seen one by one, in the forward pass and in what a backward pass computes anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager


class FunctionMode(TorchFunctionMode):
    """A mode that stays on inside of ``Tensor.backward``, where checkpointed forwards run again."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one function, by ``call`` unless it is the backward pass."""
        kwargs = kwargs or {}
        if func is not Tensor.backward:
            return self.call(func, args, kwargs)
        with self:  # PyTorch has taken the mode off for the length of this call
            return _backward(*args, **kwargs)

    def call(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run one function. Functions that it calls itself are not seen."""
        return func(*args, **kwargs)


def unseen() -> AbstractContextManager[object]:
    """Return a context in which no mode sees what PyTorch's functions do: a look at a value is no part of a step."""
    context: AbstractContextManager[object] = torch._C.DisableTorchFunction()  # noqa: SLF001 - no public one for modes
    return context


def _backward(
    tensor: Tensor,
    gradient: Any = None,
    retain_graph: bool | None = None,  # noqa: FBT001 - the signature of Tensor.backward
    create_graph: bool = False,  # noqa: FBT001, FBT002
    inputs: Any = None,
) -> None:
    torch.autograd.backward(tensor, gradient, retain_graph, create_graph, inputs=inputs)
