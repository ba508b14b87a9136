"""Judging a step: its gradients are used, clipped, left to the GradScaler or dropped; and the state that they leave."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gradwatch.capture.batch import batch_size_of
from gradwatch.capture.gradients import Gradients, read_gradients
from gradwatch.capture.rollback import Rollback, evaluates_again
from gradwatch.capture.scaling import ScaleTrend, scale_of, unscales_itself, will_skip
from gradwatch.engine.recording import Position, TakenStep, largest_layer
from gradwatch.engine.response import BadStep, Responder
from gradwatch.numerics import clip_coefficient, scale_
from gradwatch.observations import HugeGradient

if TYPE_CHECKING:
    from gradwatch.capture.parameters import ParameterGroup
    from gradwatch.capture.state_scan import Birth
    from gradwatch.capture.window import StepWindow
    from gradwatch.engine.closer_look import CloserLook
    from gradwatch.engine.context import RunContext
    from gradwatch.engine.counters import Counters
    from gradwatch.engine.health_rules import HealthRules
    from gradwatch.engine.recorder import Header, Recorder
    from gradwatch.engine.watched import Watched
    from gradwatch.observations import Fate

# Verdicts on one step, in the order in which they win when the ranks differ.
FINE, HUGE, OVERFLOW, BAD = 0, 1, 2, 3


class Attempt(NamedTuple):
    """A step that an optimizer is about to take with the gradients that have been read.

    ``steps_before``: how many optimizer steps its batch has already made; ``log``: whether it is to be written down.
    """

    group: ParameterGroup
    gradients: Gradients
    position: Position
    steps_before: int
    log: bool


class StepJudge:
    """Decides what becomes of each optimizer step, and hands it to the recorder.

    Args:
        context: the loop's setting.
        watched: whose state is looked at.
        window: the micro-batches whose gradients the next step will use.
        counters: count the overflows.
        look: knows whether the step is the first one.
        rules: hear of the first step, and of huge gradients.
        recorder: remembers each step.
        responder: acts on the bad ones.
        max_norm: the limit of the clip rule.
        header: returns what every event at a position has.

    Attributes:
        loss_scale: of the last step that was read; None without a GradScaler.
        rollbacks: what takes back a step that is being evaluated again, by optimizer, until it has acted.
    """

    def __init__(
        self,
        context: RunContext,
        watched: Watched,
        window: StepWindow[Position],
        *,
        counters: Counters,
        look: CloserLook,
        rules: HealthRules,
        recorder: Recorder,
        responder: Responder,
        max_norm: float | None,
        header: Header,
    ) -> None:
        self._context, self._watched, self._window = context, watched, window
        self._counters, self._look, self._rules = counters, look, rules
        self._recorder, self._responder = recorder, responder
        self._max_norm, self._header = max_norm, header
        self._scale_trend = ScaleTrend()
        self.loss_scale: float | None = None
        self.rollbacks: dict[int, Rollback] = {}

    def read(self, group: ParameterGroup) -> tuple[Gradients, int]:
        """Return the gradients of an optimizer, unscaled, and this rank's verdict on them."""
        scalars, scaler = self._window.unread(), self._context.scaler
        if scaler is not None:
            scalars.append(scale_of(scaler, group.parameters[0].device))
        gradients = read_gradients(group, scalars)
        self.loss_scale = gradients.extras.pop() if scaler is not None else None
        self._recorder.add_losses(self._window.take(gradients.extras))
        if self.loss_scale is not None and unscales_itself(group.optimizer):
            gradients = gradients.divided_by(self.loss_scale)
        return gradients, self._verdict(group, gradients)

    def act(self, verdict: int, attempt: Attempt) -> bool:
        """Do with a step what the verdict of all ranks asks for; return whether the update will happen.

        Raises:
            NonFiniteError: under ``on_nonfinite="raise"``, or after ``max_skips`` skips in a row.
        """
        if verdict == BAD:
            return self._respond(attempt, self._bad_step(attempt))
        if verdict == OVERFLOW:
            bad = self._bad_step(attempt)
            persists = self._responder.persists_unscaled(bad)
            if self._context.agree(int(persists or self._scale_trend.overflow(bad.loss_scale or 1.0))):
                return self._respond(attempt, bad._replace(loss_scale=1.0) if persists else bad)
            self._note_overflow(attempt)
            return False
        self._accept(attempt)
        return True

    def check_clipped(self, group: ParameterGroup, position: Position, steps_before: int, *, log: bool) -> None:
        """Look at what the loop's own clipping has left of the gradients of a step that was accepted.

        Raises:
            NonFiniteError: as in ``act``.
        """
        waits, by_user_code = self._recorder.waits(group.index), self._context.clips_by_user_code
        if not self._context.clips_by_other_means or not (by_user_code or waits):
            return
        gradients = read_gradients(group)
        if waits:
            self._recorder.clipped_to(group.index, gradients.total)
        if not gradients.finite and by_user_code:
            attempt = Attempt(group, gradients, position, steps_before, log)
            self._respond(attempt, self._bad_step(attempt), again=True)

    def forget(self, optimizer: int) -> None:
        """Note that an optimizer has acted: there is nothing to take back any more."""
        self.rollbacks.pop(optimizer, None)

    def judge_state(self, position: Position, *, together: bool) -> None:
        """Look at weights, buffers and optimizer state for values that have become non-finite.

        Args:
            position: where the run is.
            together: all ranks look now and decide as one; False where only this rank may be looking.

        Raises:
            NonFiniteError: under ``on_nonfinite="raise"``.
        """
        births: list[Birth] = []
        self._recorder.rest()
        try:
            # Inside an accumulation window the buffers may hold traces of a batch that has not been judged yet.
            before = self._watched.buffers.before(0) if self._window.waits_for_step else None
            births = self._watched.scanner.scan(before)
        finally:  # a rank that fails must still take part, or the others wait for ever
            verdict = BAD if births else FINE
            verdict = self._context.agree(verdict) if together else verdict
        if verdict == BAD:
            self._responder.report_state(births, position, together=together)
        self._watched.scanned_at = position.step

    def _verdict(self, group: ParameterGroup, gradients: Gradients) -> int:
        """A GradScaler's overflow is routine while the loss is finite and there is a scale left to blame.

        Whether the scale really is to blame is found out by running the step again without it.
        """
        bad_loss, scaler, scale = self._window.bad_losses, self._context.scaler, self.loss_scale
        if gradients.finite and not bad_loss:
            return HUGE if gradients.huge else FINE
        if bad_loss or scaler is None or scale is None or scale <= 1.0:
            return BAD
        routine = unscales_itself(group.optimizer) or will_skip(scaler, group.optimizer)
        return OVERFLOW if routine else BAD

    def _accept(self, attempt: Attempt) -> None:
        group, gradients = attempt.group, attempt.gradients
        coefficient = self._clip(gradients)
        if evaluates_again(group.optimizer):
            if group.index in self.rollbacks:
                return  # a further evaluation of the same step: judged and clipped, but counted once
            self.rollbacks[group.index] = Rollback(group.optimizer)
        self._responder.note_good_step(group)
        self._scale_trend.good_step(self.loss_scale)
        self._remember(attempt, coefficient, nonfinite=False)
        if gradients.huge:
            header, layer = self._header(attempt.position), largest_layer(group, gradients) or ""
            fate = self._fate_of_huge(coefficient)
            self._rules.read(HugeGradient(**header, layer=layer, norm=gradients.total, fate=fate))

    def _clip(self, gradients: Gradients) -> float:
        if self._max_norm is None or not gradients.tensors:
            return 1.0
        coefficient = clip_coefficient(gradients.total, self._max_norm)
        if coefficient < 1.0 and self._context.clip_rule is None:
            scale_(gradients.tensors, coefficient)
        return coefficient

    def _fate_of_huge(self, coefficient: float) -> Fate:
        if self._context.clip_rule is None:
            return "clipped" if coefficient < 1.0 else "kept"
        return "left alone" if self._context.clips_by_other_means else "zeroed"

    def _note_overflow(self, attempt: Attempt) -> None:
        """The GradScaler found an overflow: it will skip this update and lower its scale, as it is meant to."""
        self._counters.overflows += 1
        self._remember(attempt, nonfinite=True, skipped=True)

    def _bad_step(self, attempt: Attempt) -> BadStep:
        group, gradients, position, steps_before, _ = attempt
        return BadStep(group, gradients, self._window, position, steps_before, self.loss_scale)

    def _respond(self, attempt: Attempt, bad: BadStep, *, again: bool = False) -> bool:
        group, gradients = attempt.group, attempt.gradients
        decision = self._responder.decide(group)
        if decision.drop:  # first of all: whatever fails below, these gradients must not reach the weights
            self._responder.drop(group, gradients, self._window.first_bad().index)
            if group.index in self.rollbacks:
                self.rollbacks.pop(group.index).undo()
        skipped = decision.drop and not decision.raises
        nonfinite = not gradients.finite or bool(self._window.bad_losses)
        self._remember(attempt, nonfinite=nonfinite, skipped=skipped, again=again)
        self._responder.report_step(decision, bad)
        return not decision.drop

    def _remember(
        self,
        attempt: Attempt,
        coefficient: float = 1.0,
        *,
        nonfinite: bool,
        skipped: bool = False,
        again: bool = False,
    ) -> None:
        """Add the step to counters and history, and begin its record on a log step; ``again``: as a bad one now."""
        if self._look.is_first:
            self._rules.read_first(self._header(attempt.position))
        step = TakenStep(
            attempt.position,
            attempt.group,
            attempt.gradients,
            coefficient,
            self.loss_scale,
            batch_size_of(self._window.micro_batches[-1].batch),
            nonfinite,
            skipped,
        )
        self._recorder.remember(step, max_norm=self._max_norm, log=attempt.log, again=again)
