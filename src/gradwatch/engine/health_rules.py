"""The health rules at work: what they read is put together here, what they find goes to the reporter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gradwatch.capture.host_norms import host_norms
from gradwatch.detectors.panel import Panel
from gradwatch.detectors.selection import select
from gradwatch.engine.recording import gradient_norms
from gradwatch.observations import FirstForward, Layers, Observation, Ranks, Rows, Setting, Validation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gradwatch.capture.gradients import Gradients
    from gradwatch.capture.history import StepRow
    from gradwatch.capture.parameters import ParameterGroup
    from gradwatch.engine.closer_look import CloserLook
    from gradwatch.engine.context import RunContext
    from gradwatch.engine.recording import PendingRecord
    from gradwatch.engine.reporter import Reporter
    from gradwatch.engine.watched import Watched


class HealthRules:
    """Shows the rules each log step, validation and gradient check.

    Args:
        detectors: the user's choice, as in ``NumericalHealthMonitor``.
        context: the loop's setting.
        watched: whose steps are read.
        look: what was seen of a batch beside its norms.
        reporter: takes the findings.
        max_norm: the limit of the clip rule.

    Attributes:
        wanted: whether there are any; without one nothing is put together. The same on all ranks, at all times.
    """

    def __init__(
        self,
        detectors: Any,
        context: RunContext,
        watched: Watched,
        look: CloserLook,
        reporter: Reporter,
        *,
        max_norm: float | None,
    ) -> None:
        chosen = select(detectors)
        self.wanted = bool(chosen)
        self._panel = Panel(chosen)
        self._context, self._watched, self._look, self._reporter = context, watched, look, reporter
        self._max_norm = max_norm
        self._ranks: dict[int, Ranks] = {}
        self._settings: dict[int, tuple[ParameterGroup, Setting]] = {}

    def read(self, record: Any) -> None:
        """Show the rules a record, and report what they find."""
        self._reporter.findings(self._panel.observe(record))

    def compare_ranks(self, group: ParameterGroup, gradients: Gradients) -> None:
        """Learn the norms of all ranks, which come here together: whatever fails here, none may be left waiting."""
        if self._context.gather is None or not self.wanted:
            return
        count, mine = len(group.layers), np.full(2 * len(group.layers), np.nan)
        try:
            weights = group.layer_norms(host_norms([parameter.detach() for parameter in group.parameters]))
            mine = np.concatenate([weights, gradient_norms(group, gradients)])
        finally:
            table = np.array(self._context.gather(mine.tolist()))
        if np.isnan(table).all(axis=1).any():  # the monitor of some rank has failed: its weights need not differ
            return
        self._ranks[group.index] = Ranks(weight_norm=table[:, :count], grad_norm=table[:, count:])

    def read_step(self, pending: PendingRecord, layers: Layers, header: dict[str, Any]) -> None:
        """Show the rules a log step, once its optimizer has acted."""
        if not self.wanted:
            return
        group = pending.step.group
        observation = Observation(
            **header,
            optimizer=group.index,
            setting=self._setting(group),
            rows=rows_of(pending.rows),
            layers=_without_update(layers) if pending.step.skipped else layers,
            without_gradient=_without_gradient(pending),
            orphans=self._watched.orphans_with_gradient() if group.index == 0 else (),
            bad_batch=self._look.bad_batch(),
            forward=self._look.forward(),
            loss=self._look.loss,
            ranks=self._ranks.pop(group.index, None),
        )
        self.read(observation)
        self._look.was_told()

    def read_first(self, header: dict[str, Any]) -> None:
        """Show the rules the very first forward pass: weights as they were initialised."""
        forward = self._look.forward()
        if forward is not None:
            self.read(FirstForward(**header, forward=forward))

    def read_validation(self, losses: Mapping[str, float], header: dict[str, Any]) -> None:
        """Show the rules the losses of a validation, by name."""
        if losses:
            self.read(Validation(**header, losses=dict(losses)))

    @property
    def fp16(self) -> bool:
        """Whether the step computes in float16."""
        return self._look.fp16

    @property
    def at_start(self) -> bool:
        """Whether what only matters at the start of a run is still to be measured."""
        return self._look.early

    def state_dict(self) -> dict[str, Any]:
        """Return the rules' memory as plain values."""
        return self._panel.state_dict()

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue from the memory of the run that this one resumes."""
        self._panel.load_state_dict(saved)

    def _setting(self, group: ParameterGroup) -> Setting:
        """Return what stays as it is while the group does; when an optimizer joins, all groups are made anew."""
        read, setting = self._settings.get(group.index, (None, None))
        if read is not group or setting is None:
            setting = self._setting_of(group)
            self._settings[group.index] = group, setting
        return setting

    def _setting_of(self, group: ParameterGroup) -> Setting:
        device = group.parameters[0].device if group.parameters else torch.device("cpu")
        return Setting(
            optimizers=len(self._watched.groups),
            optimizer=type(group.optimizer).__name__,
            compute=self._context.compute_format(group.parameters),
            has_bf16=device.type != "cuda" or torch.cuda.is_bf16_supported(),
            has_scaler=self._context.scaler is not None,
            world_size=self._context.world_size,
            max_norm=self._max_norm,
        )


def rows_of(rows: Sequence[StepRow]) -> Rows:
    """Return the steps as columns; what is not known is NaN."""
    columns = list(zip(*rows, strict=True)) or [()] * 10
    step, epoch, batch, loss, norm, coefficient, lr, scale, size, skipped = columns
    floats = np.array([batch, loss, norm, coefficient, scale, size], dtype=float)  # None becomes NaN
    return Rows(
        step=np.array(step, dtype=np.int64),
        epoch=np.array(epoch, dtype=np.int64),
        batch_idx=floats[0],
        loss=floats[1],
        grad_norm=floats[2],
        coefficient=floats[3],
        loss_scale=floats[4],
        batch_size=floats[5],
        skipped=np.array(skipped, dtype=bool),
        lr=_rates(lr),
    )


def _rates(rows: Sequence[tuple[Any, ...]]) -> np.ndarray:
    """Return the rates, shape [rows, groups]; NaN for the groups that were not there yet."""
    lengths = set(map(len, rows))
    groups = max(lengths, default=0)
    if len(lengths) <= 1:
        return _floats([rate for rates in rows for rate in rates]).reshape(len(rows), groups)
    return np.array([_floats([*rates, *[None] * (groups - len(rates))]) for rates in rows])


def _floats(values: Sequence[Any]) -> np.ndarray:
    try:
        floats = np.array(values, dtype=float)  # None becomes NaN
    except (TypeError, ValueError, RuntimeError):  # a rate may be anything, a tensor on a device or one being learnt
        floats = np.zeros(())
    if floats.ndim != 1:  # ... or a tensor of one element
        floats = np.array([_float(value) for value in values], dtype=float)
    return floats


def _float(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        return np.nan


def _without_update(layers: Layers) -> Layers:
    """Return the layers of a step that did not happen: there is no update to judge."""
    nothing = np.full(len(layers.names), np.nan)
    return layers._replace(update_ratio=nothing, unchanged=nothing)


def _without_gradient(pending: PendingRecord) -> tuple[tuple[str, str], ...]:
    """Return name and layer of the trainable parameters that had no gradient at any step since the last record."""
    group, gradients = pending.step.group, pending.step.gradients
    if len(gradients.positions) == len(group.parameters) or pending.step.skipped:
        return ()
    missing = np.setdiff1d(group.positions, gradients.positions)
    missing = missing[pending.largest.parameters[missing] == 0]
    return tuple(
        (group.names[i], group.layers[group.layer_index[i]]) for i in missing if group.parameters[i].requires_grad
    )
