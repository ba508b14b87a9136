"""Charts: curves with bands over the step axis, limits, and marks where something happened.

The picture is SVG that stretches with the page; words are HTML beside it, so that they keep their size on a phone.
Every chart of a page that is given the same ``steps`` lines up with the others.

    chart("Loss", [Series(x=step, y=loss)], steps=steps_axis(0, 1000), marks=[Mark(step=120, text="...")])
    chart("Loss", [Series(x=step, y=mean, low=mean - std, high=mean + std, label="lr=0.1", colour=1), ...], ...)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gradwatch.report.html.axis import Axis, value_axis
from gradwatch.report.html.formats import count, number
from gradwatch.report.html.markup import Child, Markup, element, plain, short
from gradwatch.report.html.paths import path, ring, runs, thinned, thinned_band

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH, HEIGHT = 1000.0, 400.0  # of the picture's own coordinates; the style sheet decides how large it is seen
COLOURS = 6  # that the style sheet has for series
SIGN = 0.012  # of the width: as wide as a sign is
SEVERITIES = ("info", "warning", "error", "incident")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Series:
    """One curve: ``y`` over ``x``, with a band from ``low`` to ``high`` around it where they are given.

    NaN is a gap; an infinite ``y`` is marked at the upper edge. ``x`` does not fall. ``colour`` is an index.
    """

    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    label: str = ""
    colour: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Something that happened at ``step``; ``severity`` is info, warning, error or incident.

    ``link`` is where on the page it is told, as ``#incident-0``.
    """

    step: int
    text: str
    severity: str = "info"
    link: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A horizontal line, as the limit of clipping."""

    value: float
    text: str


def chart(
    title: str,
    series: Sequence[Series],
    *,
    steps: Axis,
    marks: Sequence[Mark] = (),
    limits: Sequence[Limit] = (),
    log: bool | None = None,
    note: Child = None,
    show_steps: bool = True,
) -> Markup:
    """Return a chart.

    Args:
        title: what is drawn.
        series: the curves, the most important last (it is drawn on top).
        steps: the axis of steps; take one for all charts of a page.
        marks: what happened, drawn as lines with a sign that leads to where it is told.
        limits: horizontal lines; one far outside of the curves does not squeeze them.
        log: whether the values are shown by orders of magnitude; see ``value_axis``.
        note: a line under the title.
        show_steps: whether the steps are written under the chart.
    """
    values = value_axis(_shown_values(series, limits), log=log)
    drawn: list[Child] = [*_grid(values, steps), *_mark_lines(marks, steps)]
    drawn += [_band(one, steps, values) for one in series]
    drawn += [_limit(limit, values) for limit in limits]
    drawn += [_line(one, steps, values) for one in series]
    drawn += [_infinite(one, steps) for one in series]
    picture = element(
        "svg",
        drawn,
        viewBox=f"0 0 {WIDTH:.0f} {HEIGHT:.0f}",
        preserveAspectRatio="none",
        role="img",
        aria_label=_spoken(title, series, steps),
    )
    return element(
        "figure",
        element("figcaption", element("strong", title), _legend(series), note and element("span", note, class_="note")),
        frame(picture, steps, values, marks=marks, limits=limits, show_steps=show_steps),
        class_="chart",
    )


def frame(
    picture: Markup,
    steps: Axis,
    values: Axis,
    *,
    marks: Sequence[Mark] = (),
    limits: Sequence[Limit] = (),
    show_steps: bool = True,
) -> Markup:
    """Return a picture of curves between its axes."""
    high = [
        element("span", number(tick), style=f"top:{_percent(1 - _place(values, tick))}") for tick in values.ticks(4)
    ]
    captions = [
        element("span", limit.text, class_="limit-text", style=f"top:{_percent(1 - _place(values, limit.value))}")
        for limit in limits
        if values.low <= limit.value <= values.high
    ]
    return element(
        "div",
        element("div", high, class_="y", aria_hidden="true"),
        element("div", picture, captions, mark_signs(marks, steps), class_="area"),
        step_ticks(steps) if show_steps else None,
        class_="plot",
    )


def step_ticks(steps: Axis) -> Markup:
    """Return the steps under a picture."""
    ticks = [tick for tick in steps.ticks(8) if tick == round(tick)]
    labels = [element("span", f"{tick:,.0f}", style=f"left:{_percent(_place(steps, tick))}") for tick in ticks]
    return element("div", labels, class_="x", aria_hidden="true")


def mark_signs(marks: Sequence[Mark], steps: Axis) -> list[Markup]:
    """Return the signs of ``marks`` at the top of a picture, each a link to where it is told.

    Signs that would cover one another are one: that of the worst, which says how many more there are.
    """
    signs = []
    for group in _neighbours([mark for mark in marks if steps.low <= mark.step <= steps.high], steps):
        worst = max(group, key=lambda mark: SEVERITIES.index(_severity(mark)))
        text = f"step {count(worst.step)}: {short(worst.text, 200)}"
        text += f" (and {len(group) - 1} more here)" if len(group) > 1 else ""
        left = _percent(_place(steps, worst.step))
        spoken = element("span", text, class_="spoken")
        link = worst.link or "#findings"
        signs.append(
            element("a", spoken, class_=f"mark {_severity(worst)}", href=link, style=f"left:{left}", title=text)
        )
    return signs


def _neighbours(marks: Sequence[Mark], steps: Axis) -> list[list[Mark]]:
    """Return marks in groups that begin less than ``SIGN`` of the axis after the first of the group."""
    groups: list[list[Mark]] = []
    begin = 0.0
    ordered = sorted(marks, key=lambda mark: mark.step)
    for mark, place in zip(ordered, _places(steps, ordered), strict=True):
        if groups and place - begin < SIGN:
            groups[-1].append(mark)
        else:
            groups.append([mark])
            begin = place
    return groups


def _severity(mark: Mark) -> str:
    return mark.severity if mark.severity in SEVERITIES else "error"  # a newer version may know worse


def _shown_values(series: Sequence[Series], limits: Sequence[Limit]) -> np.ndarray:
    parts = [part for one in series for part in (one.y, one.low, one.high) if part is not None]
    values = np.concatenate([np.asarray(part, dtype=np.float64) for part in parts]) if parts else np.zeros(0)
    finite = values[np.isfinite(values)]
    if not finite.size:
        return np.zeros(0)
    far = 20.0 * float(np.abs(finite).max())
    return np.asarray(np.concatenate([finite, [limit.value for limit in limits if limit.value <= far]]))


def _place(axis: Axis, value: float) -> float:
    return float(axis.place(np.array([value]))[0])


def _places(axis: Axis, marks: Sequence[Mark]) -> list[float]:
    """Return the places of all marks at once: there may be ten thousand."""
    places: list[float] = axis.place(np.array([mark.step for mark in marks], dtype=np.float64)).tolist()
    return places


def _percent(part: float) -> str:
    return f"{100.0 * part:.3f}%"


def _grid(values: Axis, steps: Axis) -> list[Markup]:
    lines = []
    for tick in values.ticks(4):
        y = HEIGHT * (1.0 - _place(values, tick))
        lines.append(element("line", x1=0, x2=f"{WIDTH:.0f}", y1=f"{y:.1f}", y2=f"{y:.1f}", class_="grid"))
    for tick in steps.ticks(8):
        x = WIDTH * _place(steps, tick)
        lines.append(element("line", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=0, y2=f"{HEIGHT:.0f}", class_="grid"))
    return lines


def _mark_lines(marks: Sequence[Mark], steps: Axis) -> list[Markup]:
    """Return a line for each place where something happened, as severe as the worst there."""
    places: dict[str, str] = {}
    shown = [mark for mark in marks if steps.low <= mark.step <= steps.high]
    shown.sort(key=lambda mark: SEVERITIES.index(_severity(mark)))
    for mark, place in zip(shown, _places(steps, shown), strict=True):
        places[f"{WIDTH * place:.0f}"] = _severity(mark)
    return [
        element("line", x1=x, x2=x, y1=0, y2=f"{HEIGHT:.0f}", class_=f"at {severity}") for x, severity in places.items()
    ]


def _limit(limit: Limit, values: Axis) -> Markup | None:
    if not values.low <= limit.value <= values.high:
        return None
    y = f"{HEIGHT * (1.0 - _place(values, limit.value)):.1f}"
    return element("line", x1=0, x2=f"{WIDTH:.0f}", y1=y, y2=y, class_="limit")


def _line(series: Series, steps: Axis, values: Axis) -> Markup:
    x, y = thinned(np.asarray(series.x, dtype=np.float64), np.asarray(series.y, dtype=np.float64))
    across, up = WIDTH * steps.place(x), HEIGHT * (1.0 - values.place(y))
    drawn = np.isfinite(across) & np.isfinite(up)
    # What is drawn has the precision of a pixel; who points at it is told the numbers.
    told = " ".join(f"{step:.0f} {value:.4g}" for step, value in zip(x[drawn].tolist(), y[drawn].tolist(), strict=True))
    return element("path", d=path(across, up), data_told=told, class_=f"line s{series.colour % COLOURS}")


def _band(series: Series, steps: Axis, values: Axis) -> Markup | None:
    if series.low is None or series.high is None:
        return None
    low, high = (np.asarray(part, dtype=np.float64) for part in (series.low, series.high))
    floor = values.low if values.log else -math.inf  # a band down to zero reaches the edge of a logarithmic axis
    low = np.maximum(low, floor)
    x = np.asarray(series.x, dtype=np.float64)
    x, low, high = thinned_band(x, low, high)
    across, bottom, top = WIDTH * steps.place(x), HEIGHT * (1 - values.place(low)), HEIGHT * (1 - values.place(high))
    known = np.isfinite(bottom) & np.isfinite(top) & np.isfinite(across)
    if not known.any() or bool(np.all(bottom[known] == top[known])):
        return None
    rings = [ring(across[run], bottom[run], top[run]) for run in runs(known)]
    return element("path", d="".join(rings), class_=f"band s{series.colour % COLOURS}")


def _infinite(series: Series, steps: Axis) -> Markup | None:
    """Return marks at the upper edge where a value is infinite: no axis has a place for it."""
    at = np.unique(np.rint(WIDTH * steps.place(np.asarray(series.x)[np.isinf(series.y)])))
    drawn = "".join(f"M{x:.0f} 0v14" for x in at[np.isfinite(at)])
    return element("path", d=drawn, class_="line infinite") if drawn else None


def _legend(series: Sequence[Series]) -> list[Markup]:
    return [
        element("span", short(one.label, 60), class_=f"key s{one.colour % COLOURS}", title=plain(one.label)[:500])
        for one in series
        if one.label
    ]


def _spoken(title: str, series: Sequence[Series], steps: Axis) -> str:
    """Return in words what the curves span, for who cannot see them."""
    extents = [f"{one.label}: {extent(one)}" if one.label else extent(one) for one in series]
    return "; ".join([f"{title}, steps {steps.low:.0f} to {steps.high:.0f}", *extents])


def extent(series: Series) -> str:
    """Return in words from where to where a curve goes, its band included, and where it ends."""
    sides = [side for side in (series.y, series.low, series.high) if side is not None]
    values = np.concatenate([side[np.isfinite(side)] for side in sides])
    if not values.size:
        return "never finite"
    least, most = values.min(), values.max()
    known = ~np.isnan(series.y)
    x, y = series.x[known], series.y[known]
    finite = np.flatnonzero(np.isfinite(y))
    if finite.size < len(y) and (not finite.size or finite[-1] < len(y) - 1):
        end = f"not finite from step {count(int(x[finite[-1] + 1 if finite.size else 0]))} on"
    elif least == most:
        return f"{number(least, 3)} throughout"
    else:
        end = f"at last {number(y[-1], 3)}" if finite.size else ""
    return f"{number(least, 3)} to {number(most, 3)}" + (f", {end}" if end else "")
