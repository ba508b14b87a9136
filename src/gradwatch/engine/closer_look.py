"""What is looked at on some log steps only, since it costs more than norms: a forward pass, the batch, the loss."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gradwatch.capture.batch import bad_tensors, is_surely_finite
from gradwatch.capture.forward import ForwardWatch
from gradwatch.capture.loss_graph import loss_facts
from gradwatch.observations import LossFacts

if TYPE_CHECKING:
    from torch import Tensor, nn

    from gradwatch.observations import Forward

# Most of what a forward pass can show is there from the start. Later on, every so many log steps are enough.
EARLY, LATER = 20, 4


class CloserLook:
    """Looks at the first micro-batch of the first step, of the first 20 log steps, and of every fourth one after them.

    ``is_on`` from ``begin`` to ``end_step``; ``forward``, ``loss`` and ``bad_batch`` (names of tensors with NaN or
    +inf, and how many) are what was seen, None while nothing was. ``early`` during the first log steps.

    Args:
        granularity: how layers are named.
        fp16: whether the step computes in float16, so that the size of outputs matters.
    """

    def __init__(self, granularity: str, *, fp16: bool) -> None:
        self.fp16 = fp16
        self._watch = ForwardWatch(granularity)
        self._log_steps = 0
        self._batch: object = None
        self._forward: Forward | None = None
        self._looks_at_loss = False
        self.is_first = True
        self.is_on = False
        self.loss = LossFacts()

    @property
    def early(self) -> bool:
        """Whether the run is at its first log steps."""
        return self._log_steps <= EARLY

    def begin(self, module: nn.Module, batch: object, *, log: bool) -> None:
        """Look at the forward pass that comes now, if one is due: that of a log step, or the very first."""
        self._log_steps += log
        due = self.is_first or self.early or self._log_steps % LATER == 0
        if not due:
            return
        self.is_on, self._looks_at_loss = True, log
        self._batch = batch if log else None
        self._watch.begin(module, outputs=self.fp16, scale=self.is_first)

    def see_loss(self, loss: Tensor) -> None:
        """Look at the graph of the loss, before its backward pass; the forward pass is over."""
        self._watch.end()
        if self._looks_at_loss:
            self._looks_at_loss = False
            self.loss = loss_facts(loss)

    def forward(self) -> Forward | None:
        """Return what the forward pass has shown; the same for every optimizer that steps in this batch."""
        if self.is_on and self._forward is None:
            self._forward = self._watch.take()
        return self._forward

    def bad_batch(self) -> tuple[tuple[str, int], ...] | None:
        """Return the tensors of the batch with NaN or +inf, and how many of each; None if it was not looked at."""
        if self._batch is None:
            return None
        if is_surely_finite(self._batch):
            return ()
        bad = [(tensor.name, tensor.nan + tensor.posinf) for tensor in bad_tensors(self._batch)]
        return tuple((name, count) for name, count in bad if count)

    def was_told(self) -> None:
        """Note that an optimizer's rules have heard of the batch, and of modules whatever their parameters.

        Those of the others that step in this batch hear only what concerns their own layers.
        """
        self._batch = None
        if self._forward is not None:
            self._forward = replace(self._forward, outputs=(), batch_norms=())

    def end_forward(self) -> None:
        """Take off every hook: the forward pass is over, whatever came of it."""
        self._watch.end()

    def end_step(self) -> None:
        """Let go of what was seen: the optimizers have acted on it."""
        self._watch.end()
        self.is_on = self.is_first = False
        self._batch, self._forward, self.loss = None, None, LossFacts()
