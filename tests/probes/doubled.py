"""The smallest wrong backward: the identity with twice its gradient."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.autograd import Function


class Wrong(Function):
    """The identity with twice its gradient."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_ctx: Any, *grads: Tensor) -> Any:
        return 2 * grads[0]


class Doubled(nn.Module):
    """The same as a module."""

    def forward(self, x: Tensor) -> Tensor:
        return Wrong.apply(x)  # type: ignore[no-untyped-call]
