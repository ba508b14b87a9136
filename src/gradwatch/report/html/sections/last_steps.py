"""The last steps at full rate: what happened between the last record and the end."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gradwatch.report.html.axis import steps_axis
from gradwatch.report.html.curves import Series, chart
from gradwatch.report.html.formats import UNKNOWN, count, number
from gradwatch.report.html.markup import Child, Markup, element, join, short
from gradwatch.report.html.page import Section, folded, table
from gradwatch.report.html.sections.view import FARTHEST, View, optimizer_name

if TYPE_CHECKING:
    from gradwatch.records import LastSteps

_REASONS = {
    "end": "written at the end",
    "incident": "written at an incident",
    "killed": "left by a process that did not write its end",
}
_RUNNING = "so far; the run goes on"


def last_steps_section(view: View) -> Section | None:
    """Return the section of the last steps of each optimizer, or None where they were not recorded."""
    newest: dict[tuple[int, int], LastSteps] = {}
    for event in view.run.last_steps:
        if event.steps and max(map(abs, event.steps)) <= FARTHEST:
            newest[event.rank, event.optimizer] = event
    if not newest:
        return None
    parts = [_event(view, newest[key]) for key in sorted(newest)]
    return Section(
        name="last", title="The last steps", body=join(parts), lead="Every step, not only those with a record."
    )


def _event(view: View, event: LastSteps) -> Markup:
    steps = np.array(event.steps, dtype=np.int64)
    rank = f"rank {event.rank}, " if len(view.run.ranks) > 1 else ""
    heading = f"{rank}{optimizer_name(view, event.optimizer)}" if view.several_optimizers or rank else None
    axis = steps_axis(int(steps.min()), int(steps.max()))
    marks = [mark for mark in view.marks if axis.low <= mark.step <= axis.high]
    running = event.reason == "killed" and view.verdict.state == "running"
    note = _RUNNING if running else _REASONS.get(event.reason, f"written at: {event.reason}")
    charts = [
        chart("Loss", [Series(x=steps, y=_floats(event.loss))], steps=axis, marks=marks, note=note),
        chart("Gradient norm", [Series(x=steps, y=_floats(event.grad_norm))], steps=axis, marks=marks),
    ]
    heads = ["step", "epoch", "batch", "loss", "gradient norm", "largest layer", "coefficient", "learning rate"]
    scaled = any(scale is not None for scale in event.loss_scale)
    heads += ["loss scale"] * scaled + ["skipped"] * any(event.skipped)
    rows = [_row(event, at, scaled=scaled) for at in range(len(event.steps) - 1, -1, -1)]
    shown = table(heads, rows, numeric=(0, 1, 2, 3, 4, 6, 7, 8))
    numbers = folded(f"{count(len(rows), 'step')} in numbers, the last one first", shown, class_="fold")
    return join([heading and element("h3", heading), element("div", charts, class_="short"), numbers])


def _row(event: LastSteps, at: int, *, scaled: bool) -> list[Child]:
    batch = event.batches[at]
    row: list[Child] = [
        count(event.steps[at]),
        count(event.epochs[at]),
        UNKNOWN if batch is None else count(batch),
        number(event.loss[at]),
        number(event.grad_norm[at]),
        _largest(event, at),
        number(event.coefficient[at]),
        number(event.lr[at]),
    ]
    row += [number(event.loss_scale[at])] * scaled
    return row + ["skipped" if event.skipped[at] else ""] * any(event.skipped)


def _largest(event: LastSteps, at: int) -> str:
    norms = {name: values[at] for name, values in event.layers.items()}
    bad = [name for name, norm in norms.items() if norm is not None and not math.isfinite(norm)]
    if bad:
        return f"{short(bad[0], 60)} is not finite" + (f" (and {len(bad) - 1} more)" if len(bad) > 1 else "")
    known = {name: norm for name, norm in norms.items() if norm is not None}
    return short(max(known, key=known.__getitem__), 60) if known else UNKNOWN


def _floats(values: list[float | None]) -> np.ndarray:
    """Return values for a curve: a gap where nothing is known, a mark at the edge where something was not finite."""
    return np.array([math.nan if one is None else one if math.isfinite(one) else math.inf for one in values])
