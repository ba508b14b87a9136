"""A bad step, as a replay needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gradwatch.replica.batches import copy_batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradwatch.replica.step_runner import Moment


class Failure(NamedTuple):
    """A bad step, with what it takes to run it again.

    ``moments`` are the micro-batches from the first of the accumulation window to the guilty one. ``steps_before``:
    how many optimizer steps the guilty batch had already made (in manual optimization); they are not made again, since
    the weights have them. ``with_step``: whether the optimizer acted on the guilty micro-batch itself. ``born``: names
    of weights and buffers that were finite once, so that an infinity in them is no mask. ``guilty``: index of the
    guilty micro-batch, where the moments go on after it.
    """

    moments: Sequence[Moment]
    optimizer: int
    steps_before: int = 0
    with_step: bool = True
    loss_scale: float = 1.0
    born: frozenset[str] = frozenset()
    guilty: int = -1

    def split(self) -> tuple[list[Moment], list[Moment]]:
        """Return the moments up to the guilty one, which gets a batch of its own, and those after it."""
        moments, index = list(self.moments), self.guilty % len(self.moments)
        moments[index] = moments[index]._replace(batch=copy_batch(moments[index].batch))
        return moments[: index + 1], moments[index + 1 :]
