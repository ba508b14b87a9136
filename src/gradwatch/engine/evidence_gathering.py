"""What is found when a step turns out bad: the evidence of an incident, gathered from everything that was kept."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gradwatch.capture.batch import bad_tensors, named_tensors
from gradwatch.diagnosis.evidence import Evidence
from gradwatch.diagnosis.optimizer_probe import spoiling_update
from gradwatch.diagnosis.summary import summary_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gradwatch.capture.gradients import Gradients
    from gradwatch.capture.history import History
    from gradwatch.capture.parameters import ParameterGroup
    from gradwatch.capture.state_scan import Birth
    from gradwatch.capture.window import StepWindow
    from gradwatch.diagnosis.optimizer_probe import Update
    from gradwatch.records import TensorSummary


def evidence_of_batch(batch: object) -> list[tuple[str, TensorSummary]]:
    """Return the tensors of a batch that hold NaN or ±inf, with their ranges."""
    return [(found.name, summary_of(found.tensor)) for found in bad_tensors(batch)]


def evidence_of_step(
    group: ParameterGroup,
    measured: Gradients,
    window: StepWindow[Any],
    before: Evidence,
) -> Evidence:
    """Join what was found in state and batch from before the step with its losses and gradients."""
    bad = np.flatnonzero(measured.counts.any(axis=1)) if measured.counts is not None else np.zeros(0, dtype=np.intp)
    return replace(
        before,
        losses=[spelled(loss) for loss in window.bad_losses],
        gradients=[group.names[measured.positions[i]] for i in bad],
        gradients_read=len(measured.tensors),
    )


def size_of(batch: object) -> int | None:
    """Return the extent of the first dimension of the batch's first tensor that has one."""
    return next((tensor.shape[0] for _, tensor in named_tensors(batch) if tensor.dim()), None)


def evidence_of_state(
    births: Iterable[Birth], groups: Sequence[ParameterGroup], histories: Sequence[History]
) -> Evidence:
    """Sort births by kind; a weight that its optimizer has spoilt is the optimizer's, not its own."""
    births = list(births)
    state = [birth.name for birth in births if birth.kind == "optimizer"]
    parameters = [birth.name for birth in births if birth.kind == "parameter"]
    updates = {name: _update_of(name, groups, histories) for name in parameters if not _has_bad_state(name, state)}
    made = [name for name in parameters if _has_bad_state(name, state) or updates[name] is not None]
    return Evidence(
        optimizer=made + state if made or state else [],
        update=next(filter(None, updates.values()), None),
        parameters=[name for name in parameters if name not in made],
        buffers=[birth.name for birth in births if birth.kind == "buffer"],
    )


def _has_bad_state(parameter: str, state: list[str]) -> bool:
    return any(name.startswith(f"{parameter}.") for name in state)


def _update_of(parameter: str, groups: Sequence[ParameterGroup], histories: Sequence[History]) -> Update | None:
    for group in groups:
        if parameter in group.names and histories[group.index].rows:
            position = group.names.index(parameter)
            norm, lr = _last_step_of(histories[group.index], position, len(group.names))
            return spoiling_update(group.optimizer, group.parameters[position], norm, lr)
    return None


def _last_step_of(history: History, position: int, parameters: int) -> tuple[float, Sequence[Any]]:
    """Return gradient norm and learning rates of the last step that can have moved the weight, before any bad one."""
    for row, norms in zip(reversed(history.rows), reversed(history.norms), strict=True):
        if len(norms) != parameters:  # the optimizer has been given parameters since
            break
        if np.isfinite(norms[position]):
            return float(norms[position]), row.lr
    return 0.0, ()


def spelled(value: float) -> str:
    """Return NaN, +inf or -inf as a person writes it."""
    if np.isnan(value):
        return "NaN"
    return "+inf" if value > 0 else "-inf"
