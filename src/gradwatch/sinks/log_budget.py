"""How large an event log may become, and when it is thinned."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gradwatch.sinks.thinning import Thinning
from gradwatch.sinks.thinning_plan import FIRST_WIDTH

if TYPE_CHECKING:
    from pathlib import Path

# A reader takes a second or two for it. Old file, what comes while it is thinned, and new file together stay below
# 200 MB: 1 + 1/8 + 0.6 times as much.
BUDGET = 96 * 2**20
# Other ranks have the same weights and other batches: what is special in them is in their findings and incidents.
BUDGET_OF_OTHER_RANKS = 24 * 2**20
# Bytes of work for each byte written while a log is thinned.
PACE = 8
# By how much a log grows before it is thinned again: where that has failed, and where little of it can be joined.
RETRY_AFTER = 0.125
AGAIN_AT = 1.5


class LogBudget:
    """Thins a log that has become too large.

    Args:
        rank: of this process.
        budget: the size from which on it is thinned, in bytes; None for the default of the rank.

    Attributes:
        bytes: that size.
    """

    def __init__(self, rank: int, budget: int | None = None) -> None:
        self.bytes = budget or (BUDGET_OF_OTHER_RANKS if rank else BUDGET)
        self._threshold, self._width = float(self.bytes), FIRST_WIDTH
        self._thinning: Thinning | None = None

    def spend(self, path: Path, descriptor: int, size: int, written: int) -> int | None:
        """Do a part of the work, if there is any.

        Args:
            path: the log.
            descriptor: on which it is written.
            size: its size now.
            written: how much of that was written just now.

        Returns:
            The descriptor of a thinned log that has taken its place, else None.

        Raises:
            OSError: it could not be thinned; there is another attempt when it has grown further. Likewise any error.
        """
        if self._thinning is None and size < self._threshold:
            return None  # nearly always
        try:
            if self._thinning is None:
                self._thinning = Thinning(path, self.bytes, self._width)
            if not self._thinning.advance(PACE * written):
                return None
            return self._swap(self._thinning, path, descriptor)
        except Exception:
            self._threshold = size + RETRY_AFTER * self.bytes
            self.abandon()
            raise

    def begin(self) -> None:
        """Take note that another log is begun."""
        self.abandon()
        self._threshold, self._width = float(self.bytes), FIRST_WIDTH

    def abandon(self) -> None:
        """Leave the log as it is."""
        thinning, self._thinning = self._thinning, None
        if thinning is not None:
            thinning.abandon()

    def _swap(self, thinning: Thinning, path: Path, descriptor: int) -> int | None:
        if not os.path.samestat(path.stat(), os.fstat(descriptor)):  # removed and begun anew by somebody
            self.abandon()
            return None
        thinning.replace()
        self._thinning, self._width = None, thinning.width
        after = os.fstat(thinning.descriptor).st_size
        self._threshold = max(self.bytes, AGAIN_AT * after)
        return thinning.descriptor
