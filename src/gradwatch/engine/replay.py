"""The replay: a bad step once more, on a copy that training cannot notice, traced to the birth of the bad value."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from gradwatch.capture.rollback import evaluates_again
from gradwatch.diagnosis.repair import Repair, suspects, without
from gradwatch.diagnosis.trace import StopAtBirth
from gradwatch.diagnosis.verdict import Traced, guilty_samples
from gradwatch.engine.evidence_gathering import size_of
from gradwatch.engine.replay_run import ReplayRun
from gradwatch.engine.together import Together
from gradwatch.replica.copying import side_copy
from gradwatch.replica.guard import CommunicationNeeded, StepGuard, refuse
from gradwatch.replica.memory import bytes_needed, fits
from gradwatch.replica.unnoticed import unnoticed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn
    from torch.optim import Optimizer

    from gradwatch.diagnosis.slicing import Root
    from gradwatch.engine.failure import Failure
    from gradwatch.replica.step_runner import StepRunner

log = logging.getLogger("gradwatch")

# Each costs one more run of the step.
MAX_SUSPECTS = 4
NO_ROOM = "a copy of the module would not fit into the free memory"


class Replayer:
    """Runs bad steps of one module again."""

    def __init__(self, module: nn.Module, optimizers: Sequence[Optimizer], runner: StepRunner) -> None:
        self._module, self._optimizers, self._runner = module, optimizers, runner

    def trace(self, failure: Failure) -> Traced:
        """Return where the bad value was born. Nothing raises: what hinders the replay is the ``reason``.

        The guilty micro-batch runs first alone. If that comes out finite, the whole accumulation window follows, whose
        gradients may be bad in their sum alone; it is the second attempt before a value counts as not reproduced.
        """
        share_weights = not self._fits(share_weights=False)
        if share_weights and not self._fits(share_weights=True):
            return Traced(reason=NO_ROOM)
        for moments in (failure.moments[-1:], failure.moments):
            attempted = failure._replace(moments=moments)
            traced = self._attempt(attempted, share_weights=share_weights)
            if traced.root is not None:
                return self._narrowed(traced, attempted, share_weights=share_weights)
            if traced.reason is not None:
                return traced
        return Traced(compiled=_has_compiled())

    def _narrowed(self, traced: Traced, failure: Failure, *, share_weights: bool) -> Traced:
        """Find out by further runs which of several births matters, which samples do, and what anomaly mode says."""

        def is_bad_with(repair: Repair) -> bool:
            again = self._attempt(failure, share_weights=share_weights, trace=False, repair=repair)
            # Checkpointing computes a repaired value anew in the backward pass, which a bad loss does not depend on.
            return (again.loss_is_bad if traced.loss_is_bad else again.is_bad) or again.reason is not None

        traced = traced._replace(root=_decisive(traced, is_bad_with))
        size = size_of(failure.moments[failure.guilty].batch)
        samples = guilty_samples(traced.root, size)
        if samples and not is_bad_with(Repair(samples=samples, is_harmless=traced.is_harmless)):
            traced = traced._replace(samples=samples)
        if traced.anomaly_at is None:
            return traced
        again = self._attempt(failure, share_weights=share_weights, trace=False, anomaly_at=traced.anomaly_at)
        return traced._replace(anomaly=again.anomaly)

    def check(self, failure: Failure) -> Traced:
        """Find out whether the step comes out non-finite again: once, without a trace."""
        if not self._fits(share_weights=False):
            return Traced(reason=NO_ROOM)
        return self._attempt(failure, trace=False)

    def run_together(self, failure: Failure, agree: Callable[[int], int], *, trace: bool = True) -> Traced:
        """Run a step that communicates again, on all ranks at once and from the beginning of the window.

        Args:
            failure: the same window on all ranks.
            agree: the largest value of an integer over all ranks.
            trace: otherwise only ``is_bad`` is found out.
        """
        together = Together(agree)
        share_weights = not self._fits(share_weights=False)
        traced = self._attempt(
            failure, share_weights=share_weights, trace=trace, before_collective=together.before_collective
        )
        failed = traced.reason is not None and not traced.is_bad
        if together.finish(failed=failed) or failed or traced.root is not None:
            return traced
        return Traced(reason="running the step again on all ranks together failed on another rank", communicates=True)

    def stop_at(self, failure: Failure, operation: int) -> None:
        """Run the step until an operation, by number.

        Raises:
            StopAtBirth: it has been reached; the traceback leads to its tensors.
        """
        for moments in (failure.moments[-1:], failure.moments):
            self._attempt(failure._replace(moments=moments), stop_at=operation)

    def _fits(self, *, share_weights: bool) -> bool:
        needed = bytes_needed(self._module, self._optimizers, with_optimizer_state=False, share_weights=share_weights)
        return fits(needed)

    def _attempt(
        self,
        failure: Failure,
        *,
        share_weights: bool = False,
        trace: bool = True,
        before_collective: Callable[[str], None] = refuse,
        stop_at: int | None = None,
        anomaly_at: int | None = None,
        repair: Repair | None = None,
    ) -> Traced:
        again = evaluates_again(self._optimizers[failure.optimizer])
        guard = StepGuard(before_collective=before_collective)
        try:
            with unnoticed(self._module):
                copy = side_copy(
                    self._module,
                    self._optimizers,
                    replaced=self._runner.replaced(),
                    share_weights=share_weights,
                    with_optimizer_state=again,
                )
                if share_weights:
                    guard.protect(copy.module.parameters())
                run = ReplayRun(self._runner, copy, failure, guard)
                if anomaly_at is not None:
                    return run.up_to_anomaly(anomaly_at)
                if repair is not None:
                    return run.repaired(repair)
                alone = before_collective is refuse
                traced = run.traced(alone=alone, stop_at=stop_at) if trace else run.checked(alone=alone)
        except StopAtBirth:
            raise
        except Exception as error:
            log.debug("gradwatch: the replay failed", exc_info=True)
            traced = Traced(reason=f"running the step again failed with {type(error).__name__}: {error}")
        if guard.refused is None:
            return traced
        # Whatever became of the step after that, and whether it has caught the exception.
        alone = isinstance(guard.refused, CommunicationNeeded)
        why = f"the step communicates between the ranks ({guard.refused})" if alone else str(guard.refused)
        return Traced(reason=why, communicates=True)


def _decisive(traced: Traced, is_bad_with: Callable[[Repair], bool]) -> Root | None:
    """Return the first of several births that makes the step bad all by itself, the others being repaired.

    Tensors are followed as wholes: where a benign NaN (a missing label that is indexed away) and a fault meet in one
    tensor, both are found.
    """
    groups = suspects(traced.births)[:MAX_SUSPECTS]
    if len(groups) == 1:
        return traced.root
    for group in groups:
        if is_bad_with(without(other for other in groups if other is not group)):
            return group[0]
    return traced.root


def _has_compiled() -> bool:
    """Whether anything has been compiled in this process: the replay has run it as it was written."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return dynamo is not None and bool(dynamo.counters["stats"]["unique_graphs"])
