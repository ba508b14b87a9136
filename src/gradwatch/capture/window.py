"""The micro-batches since the last optimizer step: what to look at when that step turns out bad."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from gradwatch.replica.randomness import RandomState

# Manual optimization may never step; a window that long is no accumulation, and memory must stay bounded.
MAX_MICRO_BATCHES = 256
MAX_LOSSES = 4096

P = TypeVar("P")


@dataclass(slots=True)
class MicroBatch(Generic[P]):
    """One training batch and where in the run it stands.

    ``unread`` holds scalars that are still on the device: the losses, then the total gradient norm after this batch's
    backward if no step followed it. Their host values go to ``losses``, of which the first ``judged`` have been
    answered by a decision, and to ``gradient_norm``. ``random_state`` and ``attributes`` (the
    module's own) are those from before the batch.
    """

    index: int
    position: P
    batch: object
    random_state: RandomState | None = None
    attributes: Mapping[str, object] = field(default_factory=dict)
    unread: list[Tensor] = field(default_factory=list)
    flagged: bool = False
    losses: list[float] = field(default_factory=list)
    judged: int = 0
    gradient_norm: float = 0.0

    def take(self, values: list[float]) -> list[float]:
        """Store the host values of ``unread``; return the losses among them."""
        self.unread = []
        if self.flagged:
            self.flagged = False
            self.gradient_norm = values[-1]
            values = values[:-1]
        self.losses += values
        return values


class StepWindow(Generic[P]):
    """The micro-batches whose gradients the next optimizer step will use, the current one last."""

    def __init__(self) -> None:
        self.micro_batches: list[MicroBatch[P]] = []
        self._closed = True

    @property
    def starts_anew(self) -> bool:
        """Whether the next batch opens a new window: an optimizer has stepped since the last one began."""
        return self._closed or len(self.micro_batches) >= MAX_MICRO_BATCHES

    @property
    def waits_for_step(self) -> bool:
        """Whether the current batch has run a backward that no step has followed."""
        return not self._closed and bool(self.micro_batches[-1].unread)

    def losses_of(self, micro_batch: MicroBatch[P]) -> list[float]:
        """Return the losses that count for the next step.

        Those of the current batch count for every optimizer that steps in it; an earlier one that a step has been
        judged by (of another optimizer, in manual optimization) has had its answer.
        """
        return micro_batch.losses if micro_batch is self.micro_batches[-1] else micro_batch.losses[micro_batch.judged :]

    @property
    def bad_losses(self) -> list[float]:
        """The non-finite losses that count for the next step."""
        return [x for batch in self.micro_batches for x in self.losses_of(batch) if not math.isfinite(x)]

    def begin(
        self,
        position: P,
        batch: object,
        random_state: RandomState | None = None,
        attributes: Mapping[str, object] | None = None,
    ) -> None:
        """Add a batch, in a new window if an optimizer has stepped."""
        if self.starts_anew:
            self.micro_batches = []
        self._closed = False
        self.micro_batches.append(MicroBatch(len(self.micro_batches), position, batch, random_state, attributes or {}))

    def observe(self, loss: Tensor) -> None:
        """Keep a scalar loss of the current batch on its device."""
        self.micro_batches[-1].unread.append(loss)
        self._closed = False

    def flag_gradients(self, norms: Iterable[Tensor | None]) -> None:
        """Keep the largest total norm after the current batch: it is non-finite from the guilty batch on."""
        known = [norm for norm in norms if norm is not None]
        if known:
            # torch.maximum and amax carry NaN on.
            self.micro_batches[-1].unread.append(torch.stack(known).amax() if len(known) > 1 else known[0])
            self.micro_batches[-1].flagged = True

    def close(self) -> None:
        """Note that an optimizer has stepped."""
        self._closed = True
        for micro_batch in self.micro_batches:
            micro_batch.judged = len(micro_batch.losses)

    def unread(self) -> list[Tensor]:
        """Return every scalar that is still on the device."""
        return [scalar for micro_batch in self.micro_batches for scalar in micro_batch.unread]

    def take(self, values: list[float]) -> list[float]:
        """Hand the host values of ``unread()`` out; return the losses among them."""
        losses: list[float] = []
        for micro_batch in self.micro_batches:
            count = len(micro_batch.unread)
            losses += micro_batch.take(values[:count])
            values = values[count:]
        return losses

    def first_bad(self) -> MicroBatch[P]:
        """Return the first micro-batch after which a value was bad; the last one if only the step saw it."""
        return next(filter(self._is_bad, self.micro_batches), self.micro_batches[-1])

    def _is_bad(self, micro_batch: MicroBatch[P]) -> bool:
        values = [micro_batch.gradient_norm, *self.losses_of(micro_batch)]
        return not all(map(math.isfinite, values))


class LossMeter:
    """The mean of the losses backpropagated since each optimizer's last step."""

    def __init__(self, optimizers: int) -> None:
        self._losses: list[deque[float]] = [deque(maxlen=MAX_LOSSES) for _ in range(optimizers)]

    def add(self, losses: list[float]) -> None:
        """Add losses that have reached the host."""
        for waiting in self._losses:
            waiting.extend(losses)

    def take(self, optimizer: int) -> float | None:
        """Return the mean since this optimizer's last call, None without a loss."""
        while optimizer >= len(self._losses):
            self._losses.append(deque(maxlen=MAX_LOSSES))
        waiting = self._losses[optimizer]
        mean = sum(waiting) / len(waiting) if waiting else None
        waiting.clear()
        return mean
