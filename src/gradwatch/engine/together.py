"""Ranks that run a step again together: before each collective all say that they take part, or nobody does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradwatch.replica.guard import CommunicationNeeded

if TYPE_CHECKING:
    from collections.abc import Callable

# What a rank says, in the order in which it wins.
GOES_ON, IS_DONE, HAS_FAILED = 0, 1, 2

# Waited for at once, as a trace must, the receiver may wait for a sender that waits itself.
POINT_TO_POINT = frozenset({"send", "recv", "recv_any_source", "isend", "irecv", "batch_p2p_ops"})


class Parted(RuntimeError):  # noqa: N818 - not a fault of this rank
    """Another rank does not come to this collective."""


class Together:
    """One step on all ranks at once. A rank that fails alone ends it for all, so that nobody waits for ever.

    Args:
        agree: the largest value of an integer over all ranks.
    """

    def __init__(self, agree: Callable[[int], int]) -> None:
        self._agree = agree
        self._parted = False

    def before_collective(self, name: str) -> None:
        """Wait until all ranks are about to communicate.

        Raises:
            CommunicationNeeded: the operation is one that a trace cannot take part in.
            Parted: another rank has failed or ended.
        """
        if name in POINT_TO_POINT:
            raise CommunicationNeeded(name)
        if self._parted or self._agree(GOES_ON) != GOES_ON:
            self._parted = True
            raise Parted("another rank could not run the step again to its end")

    def finish(self, *, failed: bool) -> bool:
        """Tell the others that this rank is through; return whether all have come to the end."""
        if self._parted:
            return False
        return self._agree(HAS_FAILED if failed else IS_DONE) == IS_DONE
