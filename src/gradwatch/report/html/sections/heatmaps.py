"""Heatmaps of the layers: gradient norm, weight norm and update ratio, absolute and relative to each layer's median."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gradwatch.report.html import colours
from gradwatch.report.html.curves import mark_signs, step_ticks
from gradwatch.report.html.formats import count, number
from gradwatch.report.html.heatmap import (
    Scale,
    absolute_scale,
    across,
    levels,
    merged_flags,
    merged_rows,
    png,
    relative_scale,
    rows_of,
    stretched,
)
from gradwatch.report.html.markup import Child, Markup, element, join, plain, short
from gradwatch.report.html.page import Section
from gradwatch.report.html.sections.cells import METRICS, Cells, Quantity
from gradwatch.report.html.sections.view import View, optimizer_name

if TYPE_CHECKING:
    from collections.abc import Sequence

ROW, LEAST_HEIGHT, MOST_HEIGHT = 15, 60, 420  # pixels
PHONE, NARROW = 240, 600  # pixels of pages on which a picture of more columns is smoothed: none gets lost
LABEL = 14  # pixels that a label needs
_EXPLAINED = {
    "grad_norm": "before clipping",
    "weight_norm": "of all weights of the layer",
    "update_ratio": "the optimizer's change, divided by the weight norm; near 0.001 is usual for Adam",
}


def heatmaps_section(view: View, cells: Sequence[Cells]) -> Section | None:
    """Return the section of the heatmaps, or None for a run without layers."""
    if not cells:
        return None
    parts: list[Child] = []
    for one in cells:
        if view.several_optimizers:
            parts.append(element("h3", optimizer_name(view, one.optimizer)))
        parts += [_figure(view, one, name) for name in METRICS]
    lead = (
        "Layers from input to output, steps from left to right. A cell is the largest value that it stands for: "
        "a spike of one step stays visible."
    )
    return Section(name="layers", title="Layers over time", body=join(parts), lead=lead)


def _figure(view: View, cells: Cells, metric: str) -> Markup:
    quantity = cells.quantities[metric]
    name = f"scale-{cells.optimizer}-{metric}"
    absolute, relative = absolute_scale(quantity.values), relative_scale(quantity.relative)
    caption = [
        element("strong", METRICS[metric]),
        element("span", _EXPLAINED[metric], class_="note"),
        _switch(name),
        _legend(quantity, absolute, relative),
    ]
    each = rows_of(len(cells.names))
    rows = -(-len(cells.names) // each)
    height = max(rows, min(max(ROW * rows, LEAST_HEIGHT), MOST_HEIGHT))
    pictures = [
        _picture(cells, quantity.values, quantity, absolute, kind="absolute", title=METRICS[metric]),
        _picture(cells, quantity.relative, quantity, relative, kind="relative", title=METRICS[metric]),
    ]
    left, width = _extent(view, cells)
    inside = element(
        "div", pictures, class_="cells", style=f"margin-left:{left:.3f}%;width:{width:.3f}%;height:{height}px"
    )
    area = element(
        "div", inside, _bad_columns(view, cells, quantity), mark_signs(view.marks, view.steps), class_="area"
    )
    plot = element(
        "div",
        element("div", _labels(cells.names, each, rows, height), class_="y", aria_hidden="true"),
        area,
        step_ticks(view.steps),
        class_="plot",
    )
    return element(
        "figure",
        element("figcaption", caption),
        plot,
        class_="heat",
        data_optimizer=cells.optimizer,
        data_metric=metric,
        data_each=each,
    )


def _switch(name: str) -> Markup:
    choices = [
        element("label", element("input", type="radio", name=name, value=value, checked=value == "absolute"), text)
        for value, text in (("absolute", "absolute"), ("relative", "relative to its median"))
    ]
    return element("span", choices, class_="switch", role="radiogroup", aria_label="Scale")


def _picture(
    cells: Cells, values: np.ndarray, quantity: Quantity, scale: Scale | None, *, kind: str, title: str
) -> Markup:
    relative = kind == "relative"
    each = rows_of(len(cells.names))
    # Zero has no place relative to a median, but is as dead as in the absolute picture.
    values = np.where(quantity.values == 0.0, 0.0, values) if relative else values
    found = levels(merged_rows(values, each, around_one=relative), merged_flags(quantity.nonfinite, each), scale)
    spans = across(cells.columns)
    picture = _stretched_levels(found, spans, around_one=relative)
    width, height = picture.shape
    return element(
        "img",
        src=png(picture, colours.diverging() if relative else colours.sequential()),
        class_=f"{kind}{' dense' * (width > PHONE)}{' fine' * (width > NARROW)}",
        width=width,
        height=height,
        alt=_spoken(cells, quantity, title, scale, relative=relative),
    )


def _stretched_levels(found: np.ndarray, spans: list[tuple[int, int]], *, around_one: bool) -> np.ndarray:
    """Return the levels by pixel: what is on no scale is kept before any colour, then the largest."""
    if all(behind - first == 1 for first, behind in spans):
        return found[[first for first, _ in spans]]
    rank = _RANK_AROUND_ONE if around_one else _RANK
    best = stretched(rank[found], spans)
    return np.asarray(_inverse(rank)[best])


def _inverse(rank: np.ndarray) -> np.ndarray:
    entries = np.zeros(256, dtype=np.uint8)
    entries[rank] = np.arange(rank.size, dtype=np.uint8)
    return entries


def _ranks(scale_order: np.ndarray) -> np.ndarray:
    """Return the weight of each entry of a palette when several share a pixel: unknown least, non-finite most."""
    rank = np.zeros(colours.LEVELS + 3, dtype=np.uint8)
    rank[colours.UNKNOWN], rank[colours.ZERO], rank[colours.NONFINITE] = 0, 1, 255
    rank[scale_order] = np.arange(2, colours.LEVELS + 2)
    return rank


_RANK = _ranks(np.arange(colours.LEVELS))
_RANK_AROUND_ONE = _ranks(np.argsort(np.abs(np.arange(colours.LEVELS) - (colours.LEVELS - 1) / 2), kind="stable"))


def _extent(view: View, cells: Cells) -> tuple[float, float]:
    """Return where on the axis of steps the picture begins, and how wide it is, in per cent."""
    whole = view.steps.high - view.steps.low
    begin = max(float(cells.columns.first[0]), view.steps.low)
    end = min(float(cells.columns.last[-1]) + 1.0, view.steps.high)
    return 100.0 * (begin - view.steps.low) / whole, max(100.0 * (end - begin) / whole, 0.2)


def _labels(names: tuple[str, ...], each: int, rows: int, height: float) -> list[Markup]:
    """Return names beside the rows, as many as there is room for."""
    every = max(1, -(-LABEL * rows // int(height)))
    return [
        element(
            "span",
            short(names[row * each], 30),
            style=f"top:{100.0 * (row + 0.5) / rows:.3f}%",
            title=short(names[row * each], 500),
        )
        for row in range(0, rows, every)
    ]


def _bad_columns(view: View, cells: Cells, quantity: Quantity) -> list[Markup]:
    """Return marks above the columns in which something is not finite: one cell of many rows is easily missed."""
    whole = view.steps.high - view.steps.low
    marks = []
    for column in np.flatnonzero(quantity.nonfinite.any(axis=1)).tolist():
        left = 100.0 * (max(float(cells.columns.first[column]), view.steps.low) - view.steps.low) / whole
        wide = 100.0 * float(cells.columns.last[column] + 1 - cells.columns.first[column]) / whole
        marks.append(
            element("i", class_="bad", style=f"left:{min(left, 99.7):.2f}%;width:{min(wide, 100 - left):.2f}%")
        )
    return marks


def _legend(quantity: Quantity, absolute: Scale | None, relative: Scale | None) -> Markup:
    parts: list[Child] = []
    if absolute is not None:
        low, high = (number(10.0**end, 2) for end in absolute)
        parts.append(element("span", low, _ramp(colours.sequential()), high, class_="absolute"))
    if relative is not None:
        widest = number(10.0**relative.high, 2)
        parts.append(element("span", f"1/{widest}", _ramp(colours.diverging()), f"{widest} times", class_="relative"))
    if quantity.nonfinite.any():
        parts.append(_key(colours.css(colours.NONFINITE_COLOUR), "not finite"))
    if np.any(quantity.values == 0.0):
        parts.append(_key(colours.css(colours.ZERO_COLOUR), "zero"))
    if np.any(np.isnan(quantity.values) & ~quantity.nonfinite):
        parts.append(element("span", element("i", class_="hatch"), "not known"))
    return element("span", parts, class_="legend")


def _ramp(scale: np.ndarray) -> Markup:
    stops = ",".join(colours.css(scale[index]) for index in np.linspace(0, len(scale) - 1, 13).astype(int))
    return element("i", class_="ramp", style=f"background:linear-gradient(90deg,{stops})")


def _key(colour: str, text: str) -> Markup:
    return element("span", element("i", style=f"background:{colour}"), text)


def _spoken(cells: Cells, quantity: Quantity, title: str, scale: Scale | None, *, relative: bool) -> str:
    what = f"{title}{' relative to the median of each layer' if relative else ''}: {count(len(cells.names), 'layer')}"
    steps = f"steps {cells.columns.first[0]} to {cells.columns.last[-1]}"
    span = f", mostly {number(10.0**scale.low, 2)} to {number(10.0**scale.high, 2)}" if scale else ""
    bad = int(quantity.nonfinite.sum())
    return plain(f"{what}, {steps}{span}, {count(bad, 'cell')} not finite")
