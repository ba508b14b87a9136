"""What the contract promises for a planted fault, written down before any monitor has run.

``P2`` below is promise 2 of the contract, ``P4`` promise 4, ``Incident`` its section on incident.json. An expectation
needs the plan and, where the promise speaks of what becomes bad ("if loss or gradients turn bad"), the ground truth:
the same faulty training without a monitor, as :class:`tests.faults.observer.Seen` wrote it down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tests.faults.plan import MODELS, SCALED

if TYPE_CHECKING:
    from tests.faults.observer import Seen
    from tests.faults.plan import FaultPlan

FORWARD = ("loss", "gradient")
STATE = ("parameter", "buffer", "optimizer")
HUGE_NORM = 1e20  # far above what these models reach without a fault, far below 1e30


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What must be seen. None stands for "the contract does not say".

    Attributes:
        steps: First and last step that the incident may name; None when no incident may be raised.
        deadline: Index of the moment at which the incident must be known.
        first_seen: What may have shown the value first.
        phase: ``origin.phase``.
        position: Epoch and micro-batch in which the value was born.
        layers: Layers that must stand under ``affected``.
        only: Whether nothing else may stand there.
        restored: Before which optimizer step and which batch the state must be found again.
        reported: Whether a finding of severity warning must be written; ``finding_layer`` names its layer.
        finding_step: The step that the finding must point to.
        norm: The norm of the gradient that a record of that step must have, in float64.
        same_end: Whether the training must end as it does without the monitor.
        finite_end: Whether the training must end with finite weights.
        once: Whether a training that goes on may have no second incident.
    """

    steps: tuple[int, int] | None = None
    deadline: int | None = None
    first_seen: frozenset[str] = frozenset()
    phase: str | None = None
    position: tuple[int, int] | None = None
    layers: frozenset[str] = frozenset()
    only: bool = False
    restored: tuple[int, tuple[int, int]] | None = None
    reported: bool = False
    finding_layer: str | None = None
    finding_step: int | None = None
    norm: float | None = None
    same_end: bool = False
    finite_end: bool = False
    once: bool = False


def expected(plan: FaultPlan, truth: Seen) -> Expectation:
    """Return what the contract promises for this plan."""
    if plan.huge:
        return huge(plan, truth)
    rules = {"gradient": gradient, "loss": loss, "batch": batch, "weight": weight, "buffer": buffer}
    return rules.get(plan.kind, optimizer)(plan, truth)


def gradient(plan: FaultPlan, truth: Seen) -> Expectation:
    """P2: "Faults in batch, loss or gradients are caught at that step"; weights, state and buffers stay.

    The hook makes one element of one parameter bad, so that nothing else is affected. It does so whatever the loss
    scale is: under a GradScaler, too, it is no overflow of the scaled loss, which is the scaler's routine.
    """
    return at_that_step(plan, truth, "gradient", frozenset({str(plan.layer)}), only=True)


def loss(plan: FaultPlan, truth: Seen) -> Expectation:
    """P2, as for gradients. Incident: every layer affected is named, that is, each with a bad gradient."""
    return at_that_step(plan, truth, "loss", bad_gradients(truth, plan.step))


def batch(plan: FaultPlan, truth: Seen) -> Expectation:
    """P2 if loss or gradients become bad by it; else P4: it is not an incident, only what it left behind is."""
    bad = truth.first(*FORWARD)
    if bad is not None and bad.step == plan.step:
        return at_that_step(plan, truth, "batch", bad_gradients(truth, plan.step))
    return no_incident(plan) if truth.first(*STATE) is None else later(truth)


def weight(plan: FaultPlan, truth: Seen) -> Expectation:
    """P2: "caught at that step if loss or gradients turn bad, else at the next scan"; "named, not repaired"."""
    return resident(plan, truth, "parameter")


def buffer(plan: FaultPlan, truth: Seen) -> Expectation:
    """P2, as for weights."""
    return resident(plan, truth, "buffer")


def optimizer(plan: FaultPlan, truth: Seen) -> Expectation:
    """P2, as for weights; loss and gradients of that step are good, so that it is a later step or the next scan.

    When the step makes weights bad out of finite gradients and the next one shows it in loss or gradients, P2 has the
    incident name "the step at which it was born (step, phase optimizer)". What shows nowhere waits for the scan, which
    cannot tell in which of the steps before it a weight went bad.
    """
    scan, weights, shown = next_scan(truth, start_of(plan, truth)), truth.first("parameter"), truth.first(*FORWARD)
    next_end = next_window(truth, plan.step)
    deadline = scan if shown is None else min(scan, truth.end_of(shown.step))
    # Planted after step s - 1 and found before step s has been taken, by a scan within a window of accumulation, it
    # looks to everybody like the work of step s - 1.
    first = plan.step - (MODELS[plan.model].accumulate > 1)
    common = Expectation(
        steps=(first, truth.moments[deadline].step),
        deadline=deadline,
        first_seen=frozenset({"optimizer"}),
        layers=frozenset({str(plan.layer)}),
    )
    at_once = scan <= truth.end_of(plan.step) or (shown is not None and truth.end_of(shown.step) <= next_end)
    if weights is None or weights.step != plan.step or not at_once:
        return common
    return replace(common, steps=(first, plan.step), phase="optimizer")


def huge(plan: FaultPlan, truth: Seen) -> Expectation:
    """P2: "A finite but huge gradient (1e30) keeps a finite norm; it is clipped if clipping is on, and reported".

    It is no incident unless something really becomes non-finite, which the truth says. Where the monitor clips, the
    truth (which does not, or overflows in torch's own clipping) says nothing: the clipped step must be harmless.
    """
    clipped = plan.clip == "own" and plan.kind in ("gradient", "loss")
    routine = plan.model in SCALED and truth.first("loss", *STATE) is None
    harmless = truth.first(*FORWARD, *STATE) is None
    base = no_incident(plan) if clipped or routine or harmless else later(truth)
    norm = truth.norms[plan.step]
    return replace(
        base,
        reported=HUGE_NORM < norm < math.inf,
        finding_layer=plan.layer if plan.kind == "gradient" else None,
        finding_step=plan.step if plan.kind == "gradient" else None,
        norm=norm if plan.kind == "gradient" else None,
    )


def at_that_step(
    plan: FaultPlan, truth: Seen, first_seen: str, layers: frozenset[str], *, only: bool = False
) -> Expectation:
    """Caught at its step, which leaves no trace; Incident: batch_idx is the micro-batch of the birth."""
    return Expectation(
        steps=(plan.step, plan.step),
        deadline=truth.end_of(plan.step),
        first_seen=frozenset({first_seen}),
        position=(plan.epoch, plan.batch_idx),
        layers=layers,
        only=only,
        restored=(plan.step, (plan.epoch, plan.batch_idx)),
        finite_end=plan.mode == "skip",
        once=plan.mode == "skip",
    )


def resident(plan: FaultPlan, truth: Seen, first_seen: str) -> Expectation:
    """A value that sits in the model from the start of the batch on, and showed itself there first."""
    scan, bad = next_scan(truth, start_of(plan, truth)), truth.first(*FORWARD)
    common = Expectation(first_seen=frozenset({first_seen}), layers=frozenset({str(plan.layer)}))
    if bad is None or bad.moment > scan:
        return replace(common, steps=(plan.step, truth.moments[scan].step), deadline=scan)
    birth = truth.first("loss", "backward") or bad
    return replace(
        common,
        steps=(plan.step, bad.step),
        deadline=truth.end_of(bad.step),
        restored=(bad.step, (birth.epoch, birth.batch_idx)),
    )


def later(truth: Seen) -> Expectation:
    """Nothing was bad where it was planted, but something became bad by it: the first such thing counts."""
    bad = truth.first(*FORWARD, *STATE)
    if bad is None:
        message = "nothing became bad in the truth"
        raise ValueError(message)
    together = {other.kind for other in truth.bad if other.moment == bad.moment}
    forward = truth.first("loss", "backward")
    if bad.kind in ("parameter", "optimizer"):
        # P2: "What the optimizer makes non-finite from finite gradients is caught at the next batch at the latest".
        return Expectation(
            steps=(bad.step, bad.step),
            deadline=next_window(truth, bad.step),
            first_seen=frozenset(together & {"parameter", "optimizer"}),
            phase="optimizer",
            layers=frozenset(name.rpartition(".")[0] for name in bad.names),
        )
    if forward is None or forward.step != bad.step:
        # P2: what sits in a buffer is caught at the next scan.
        scan = next_scan(truth, bad.moment)
        return Expectation(
            steps=(bad.step, truth.moments[scan].step), deadline=scan, first_seen=frozenset({"buffer"})
        )  # fmt: skip
    # A buffer that the same forward pass spoiled may be named as the first, since it was.
    kinds = {"gradient" if forward.kind == "backward" else "loss"} | (together & {"buffer"})
    return Expectation(
        steps=(bad.step, bad.step),
        deadline=truth.end_of(bad.step),
        first_seen=frozenset(kinds),
        position=(forward.epoch, forward.batch_idx),
        layers=bad_gradients(truth, bad.step),
        restored=(bad.step, (forward.epoch, forward.batch_idx)),
    )


def no_incident(plan: FaultPlan) -> Expectation:
    """Nothing is wrong, and training goes on as without the monitor (P1), except for clipping of its own."""
    return Expectation(same_end=plan.clip != "own", finite_end=True)


def bad_gradients(truth: Seen, step: int) -> frozenset[str]:
    """Return the layers whose gradient is bad at that optimizer step."""
    names = [name for bad in truth.bad if bad.kind == "gradient" and bad.step == step for name in bad.names]
    return frozenset(name.rpartition(".")[0] for name in names)


def start_of(plan: FaultPlan, truth: Seen) -> int:
    """Return the index of the moment at which the batch of the plan starts."""
    here = ("batch_start", plan.epoch, plan.batch_idx)
    return next(index for index, moment in enumerate(truth.moments) if moment[:3] == here)


def next_scan(truth: Seen, start: int) -> int:
    """P2: "log step, around validation, before a checkpoint, end of fit"."""
    return next(index for index, moment in enumerate(truth.moments) if index >= start and moment.scan)


def next_window(truth: Seen, step: int) -> int:
    """Return the end of the batch (under accumulation: of the window, where decisions are taken) after a step."""
    end = truth.end_of(step)
    later_steps = [moment.step for moment in truth.moments[end:] if moment.step > truth.moments[end].step]
    return truth.end_of(later_steps[0] - 1) if later_steps else len(truth.moments) - 1
