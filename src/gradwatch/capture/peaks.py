"""The largest gradient norms between two records: a spike of one step is in them, however long the window."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gradwatch.capture.parameters import largest_finite

if TYPE_CHECKING:
    from array import array

    from gradwatch.capture.parameters import ParameterGroup

# Steps are taken in by so many at once: one reduction of a table costs little more than that of a row.
AT_ONCE = 64


class Largest(NamedTuple):
    """The largest finite norm at any single step, of parameters (shape [n]) and of layers (shape [layers])."""

    parameters: np.ndarray
    layers: np.ndarray


class Peaks:
    """Follows the norms of one optimizer's parameters. What is not finite is left out, here counted elsewhere."""

    def __init__(self) -> None:
        self._group: ParameterGroup | None = None
        self._waiting: list[array[float]] = []
        self._largest: Largest | None = None

    def add(self, group: ParameterGroup, norms: array[float]) -> None:
        """Take in the norms of one step, one a parameter; those of a group with other parameters are forgotten."""
        if group is not self._group:
            self._begin(group)
        self._waiting.append(norms)
        if len(self._waiting) == AT_ONCE:
            self._reduce()

    def take(self, group: ParameterGroup) -> Largest:
        """Return the largest norms since the last call, 0 where there were none."""
        if group is not self._group:
            self._begin(group)
        self._reduce()
        largest = self._largest
        self._begin(group)
        return largest or Largest(np.zeros(len(group.parameters)), np.zeros(len(group.layers)))

    def _begin(self, group: ParameterGroup) -> None:
        self._group, self._waiting, self._largest = group, [], None

    def _reduce(self) -> None:
        if not self._waiting:
            return
        table = np.frombuffer(b"".join(self._waiting)).reshape(len(self._waiting), -1)
        self._waiting = []
        assert self._group is not None  # noqa: S101 - add and take have set it
        now = Largest(largest_finite(table, axis=0), largest_finite(self._group.layer_norms(table), axis=0))
        self._largest = now if self._largest is None else Largest(*map(np.maximum, self._largest, now))
