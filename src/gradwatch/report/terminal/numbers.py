"""The sections of the screen that show numbers: curves, worst layers, last steps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gradwatch.report.summary import courses, last_states, layer_courses, newest_last_steps
from gradwatch.report.terminal.layout import INDENT, line
from gradwatch.report.terminal.sparkline import is_logarithmic, sparkline
from gradwatch.report.text import clean, count, number, shorten_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.text import Text

    from gradwatch.records import LastSteps
    from gradwatch.report.run import Run
    from gradwatch.report.steps import Steps
    from gradwatch.report.summary import Course, LastState, LayerCourse
    from gradwatch.report.terminal.layout import Layout

OPTIMIZERS, LAYERS = 3, 5
# A layer that has grown less than this over its own median is not worth a line.
GROWTH = 3.0

_LABEL, _NUMBER = 11, 10
_COURSE = ("first", "min", "max", "last")


def curves(steps: Steps, layout: Layout) -> list[Text]:
    """Return a sparkline for each curve of one optimizer, with first, least, largest and last value."""
    columns = {
        "loss": (steps.loss_high, steps.loss_bad),
        "grad_norm": (steps.grad_norm_high, None),
        "lr": (steps.lr, None),
        "loss_scale": (steps.loss_scale, None),
    }
    found = courses(steps)
    if not found:
        return []
    room = layout.width - INDENT - _LABEL - len(_COURSE) * _NUMBER
    lines = [line(" " * (_LABEL + room) + "".join(f"{name:>{_NUMBER}}" for name in _COURSE), "dim")]
    for name, course in found.items():
        value, bad = columns[name]
        lines.append(_labelled(name, sparkline(steps.step, value, room, bad=bad, ramp=layout.ramp), room))
        lines[-1].append(_course(course))
    logarithmic = [name.replace("_", " ") for name in found if is_logarithmic(columns[name][0])]
    scale = f"; logarithmic: {', '.join(logarithmic)}" if logarithmic else ""
    span = f"steps {steps.first_step[0]:,} to {steps.step[-1]:,} in {count(len(steps), 'record')}"
    return [*lines, *layout.block(span + scale, lines=2, style="dim")]


def layers(tables: Sequence[Steps], layout: Layout) -> list[Text]:
    """Return the worst layers of all optimizers, or that there is none to look at."""
    found = [layer for steps in tables for layer in layer_courses(steps)]
    worst = [layer for layer in found if layer.nonfinite or layer.dead or layer.growth >= GROWTH]
    if not worst:
        return layout.block(_calm(found), lines=2, style="dim") if found else []
    room = layout.width - INDENT - 49
    lines = [line(f"{'gradient norm':<{room}}{'usual':>10}{'peak':>10}{'at step':>10}{'growth':>9}", "dim")]
    for layer in worst[:LAYERS]:
        name = shorten_name(clean(layer.name), room - 1)
        growth = "" if math.isnan(layer.growth) else f"{layer.growth:.3g}x"
        values = f"{number(layer.usual):>10}{number(layer.peak):>10}{layer.peak_step:>10,}{growth:>9}"
        lines.append(line(f"{name:<{room}}{values}").append(_marks(layer), "red"))
    more = len(worst) - LAYERS
    return lines + ([line(f"and {more:,} more of {count(len(found), 'layer')}", "dim")] if more > 0 else [])


def last_steps(run: Run, layout: Layout) -> list[Text]:
    """Return the last known state of each optimizer, and how the last steps went."""
    newest = newest_last_steps(run)
    lines: list[Text] = []
    states = last_states(run)
    for state in states[:OPTIMIZERS]:
        optimizer = [f"optimizer {state.optimizer}"] * (len(states) > 1)
        lines += layout.facts([*optimizer, *_state(state)])
        if state.source == "last_steps":
            lines += _full_rate(newest[state.optimizer], layout)
    return lines


def _full_rate(last: LastSteps, layout: Layout) -> list[Text]:
    steps = np.arange(len(last.steps))
    room = layout.width - INDENT - _LABEL
    lines = []
    for name, values in (("loss", last.loss), ("grad_norm", last.grad_norm)):
        column = np.array(values, dtype=np.float64)
        bad = np.array([value is not None and not math.isfinite(value) for value in values])
        if bad.any() or not np.isnan(column).all():
            lines.append(_labelled(name, sparkline(steps, column, room, bad=bad, ramp=layout.ramp), room))
    return lines


def _labelled(name: str, curve: str, room: int) -> Text:
    return line(f"{name.replace('_', ' '):<{_LABEL}}").append(f"{curve:<{room}}", "cyan")


def _course(course: Course) -> str:
    return "".join(f"{number(value):>{_NUMBER}}" for value in (course.first, course.min, course.max, course.last))


def _marks(layer: LayerCourse) -> str:
    marks = [f"{layer.nonfinite:,} non-finite"] * (layer.nonfinite > 0) + ["dead"] * layer.dead
    return "  " + ", ".join(marks) if marks else ""


def _calm(found: Sequence[LayerCourse]) -> str:
    known = [layer for layer in found if not math.isnan(layer.growth)]
    if not known:
        return f"{count(len(found), 'layer')}, none non-finite or dead; too few records to tell growth"
    most = max(known, key=lambda layer: layer.growth)
    return (
        f"{count(len(found), 'layer')}, none non-finite or dead, none at {GROWTH:g} times its usual gradient norm;"
        f" most: {shorten_name(clean(most.name), 40)}, {most.growth:.2g} times at step {most.peak_step:,}"
    )


def _state(state: LastState) -> list[str]:
    scale = [] if math.isnan(state.loss_scale) else [f"loss scale {number(state.loss_scale)}"]
    return [
        f"step {state.step:,} (epoch {state.epoch:,})",
        f"loss {number(state.loss)}",
        f"grad norm {number(state.grad_norm)}",
        f"clip coefficient {number(state.coefficient)}",
        f"lr {number(state.lr)}",
        *scale,
    ]
