"""For how many sampled batches in a row each unit of a layer has been zero, kept on the device."""

from __future__ import annotations

from collections import deque
from itertools import accumulate

import torch
from torch import Tensor

BATCHES = 4
POSITIONS = 64


class UnitHistory:
    """The age of the silence of every unit behind one ReLU, in sampled batches."""

    def __init__(self) -> None:
        self._age: Tensor | None = None
        self._positions: deque[int] = deque(maxlen=POSITIONS)

    def add(self, values: Tensor, unit_dim: int) -> Tensor | None:
        """Take in one batch; return how many units are dead, as a scalar on the device.

        A unit is dead that was zero at every position of the last batches: ``BATCHES`` of them, and as many more as it
        takes to ``POSITIONS``. None while there were not so many.

        Args:
            values: what the ReLU returned, not negative; any shape. NaN tells nothing of its unit.
            unit_dim: the dimension along which units lie; all others are positions.

        """
        others = [dim for dim in range(values.dim()) if dim != unit_dim % values.dim()]
        largest = values.amax(others) if others else values
        if self._age is None or self._age.shape != largest.shape or self._age.device != largest.device:
            self._age = torch.zeros_like(largest, dtype=torch.int32)
            self._positions.clear()
        self._age.add_(largest <= 0).masked_fill_(largest > 0, 0)
        self._positions.append(values.numel() // largest.numel())
        window = self._window()
        return None if window is None else (self._age >= window).sum()

    @property
    def units(self) -> int:
        """How many units there are."""
        return 0 if self._age is None else self._age.numel()

    def _window(self) -> int | None:
        sums = accumulate(reversed(self._positions))
        return next((n for n, total in enumerate(sums, 1) if n >= BATCHES and total >= POSITIONS), None)
