"""The sections of the screen that show numbers: curves, worst layers, last steps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from rich.text import Text

from gradwatch.report import summary
from gradwatch.report.terminal.layout import INDENT, line
from gradwatch.report.terminal.sparkline import BLOCKS, is_wide, sparkline
from gradwatch.report.text import clean, count, number, shorten, shorten_name, size

if TYPE_CHECKING:
    from collections.abc import Sequence

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
_LONG = 10_000_000
_LAYER, _WIDTHS = ("usual", "peak", "at step", "growth", "non-finite"), (10, 10, 10, 10, 12)


def curves(steps: Steps, layout: Layout) -> list[Text]:
    """Return a sparkline for each curve of one optimizer, with first, least, largest and last value."""
    found = summary.curves(steps)
    if not found:
        return []
    room = layout.width - INDENT - _LABEL - len(_COURSE) * _NUMBER
    lines = [line(" " * (_LABEL + room) + "".join(f"{name:>{_NUMBER}}" for name in _COURSE), "dim")]
    # Not the learning rate: a schedule that ends at zero would be a flat line until there.
    wide = [name for name, curve in found.items() if name != "lr" and is_wide(curve.high)]
    for name, curve in found.items():
        drawn = sparkline(steps.step, curve.high, room, bad=curve.bad, log=name in wide, ramp=layout.ramp)
        lines.append(_labelled(name, drawn, room).append(_course(summary.course(steps.step, curve))))
    logarithmic = [name.replace("_", " ") for name in wide]
    scale = f"; logarithmic: {', '.join(logarithmic)}" if logarithmic else ""
    span = f"steps {steps.first_step[0]:,} to {steps.step[-1]:,} in {count(len(steps), 'record')}"
    return [*lines, *layout.block(span + scale, lines=2, style="dim")]


def layers(tables: Sequence[Steps], layout: Layout) -> list[Text]:
    """Return the worst layers of all optimizers, or that there is none to look at."""
    found = sorted((layer for steps in tables for layer in summary.layer_courses(steps)), key=summary.badness)
    worst = [layer for layer in found if layer.nonfinite or layer.dead or layer.growth >= GROWTH]
    if not worst:
        return layout.block(_calm(found), lines=2, style="dim") if found else []
    room = layout.width - INDENT - sum(_WIDTHS)
    titles = "".join(f"{title:>{width}}" for title, width in zip(_LAYER, _WIDTHS, strict=True))
    lines = [line(f"{shorten('gradient norm', room - 1):<{room}}{titles}", "dim")]
    lines += [_layer(layer, room) for layer in worst[:LAYERS]]
    more = len(worst) - LAYERS
    return lines + ([line(f"and {more:,} more of {count(len(found), 'layer')}", "dim")] if more > 0 else [])


def last_steps(run: Run, layout: Layout) -> list[Text]:
    """Return the last known state of each optimizer, and how the last steps went."""
    newest = summary.newest_last_steps(run)
    lines: list[Text] = []
    states = summary.last_states(run)
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
            drawn = sparkline(steps, column, room, bad=bad, log=is_wide(column), ramp=layout.ramp)
            lines.append(_labelled(name, drawn))
    return lines


def _labelled(name: str, curve: str, room: int = 0) -> Text:
    drawn = Text(f"{curve:<{room}}", "cyan")
    drawn.highlight_words([BLOCKS.bad], "bold red")
    return line(f"{name.replace('_', ' '):<{_LABEL}}").append_text(drawn)


def _course(course: Course) -> str:
    return "".join(f"{number(value):>{_NUMBER}}" for value in (course.first, course.min, course.max, course.last))


def _layer(layer: LayerCourse, room: int) -> Text:
    growth = "" if math.isnan(layer.growth) else f"{layer.growth:.3g}x"
    elements = f"{layer.nonfinite:,}" if layer.nonfinite < _LONG else size(layer.nonfinite)
    bad = elements if layer.nonfinite else "dead" * layer.dead
    values = (number(layer.usual), number(layer.peak), f"{layer.peak_step:,}", growth)
    shown = line(f"{shorten_name(clean(layer.name), room - 1):<{room}}")
    shown.append("".join(f"{value:>{width}}" for value, width in zip(values, _WIDTHS[:-1], strict=True)))
    return shown.append(f"{bad:>{_WIDTHS[-1]}}", "red")


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
    scale = [] if state.loss_scale is None else [f"loss scale {number(state.loss_scale)}"]
    return [
        f"step {state.step:,} (epoch {state.epoch:,})",
        f"loss {number(state.loss)}",
        f"grad norm {number(state.grad_norm)}",
        f"clip coefficient {number(state.coefficient)}",
        f"lr {number(state.lr)}",
        *scale,
    ]
