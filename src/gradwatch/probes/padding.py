"""Rows of an embedding that get no gradient by design, although the loss may depend on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from gradwatch.tracing.function_mode import FunctionMode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_POSITIONS = {functional.embedding: (1, 2), functional.embedding_bag: (1, 9)}
_NAMES = ("weight", "padding_idx")


class PaddingWatch(FunctionMode):
    """While entered, notes which row of which weight is the padding row of a look-up."""

    def __init__(self) -> None:
        super().__init__()
        self._rows: list[tuple[Tensor, int]] = []

    def call(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run one function."""
        if func in _POSITIONS:
            weight, index = (
                args[position] if position < len(args) else kwargs.get(name)
                for position, name in zip(_POSITIONS[func], _NAMES, strict=True)
            )
            if isinstance(weight, Tensor) and isinstance(index, int):
                self._rows.append((weight, index))
        return func(*args, **kwargs)

    def masks(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return, by name, 1 where a weight may be moved and 0 on its padding rows."""
        masks: dict[str, Tensor] = {}
        for weight, row in self._rows:
            for name, tensor in named.items():
                if tensor is weight:
                    mask = masks.setdefault(name, torch.ones_like(tensor, requires_grad=False))
                    mask[row] = 0
        return masks
