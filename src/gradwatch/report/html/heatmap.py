"""Heatmaps layers x steps: an indexed PNG inside the page, which shows with or without a script.

A cell is the largest value of the records, and where layers outnumber the rows of the picture also of the layers, that
it stands for: a spike of one layer at one step stays visible. Colours mean orders of magnitude.
"""

from __future__ import annotations

import base64
import io
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from gradwatch.report.html import colours
from gradwatch.report.html.colours import LEVELS, NONFINITE, UNKNOWN, ZERO

if TYPE_CHECKING:
    from gradwatch.report.html.columns import Columns

MOST_ROWS = 720
MOST_PIXELS = 1000  # of width, where columns span different numbers of steps
OUTSIDE = 0.5  # per cent of the values at either end that a scale leaves out
LEAST_DECADES, MOST_DECADES = 0.5, 5.0  # of an absolute scale: below them a value is as good as none
ROOM = 2.5  # a spike has colours of its own beyond those of the usual course, which keeps its contrast
RELATIVE_DECADES = (math.log10(2.0), 2.0)  # a scale around 1 spans at least /2 to x2 and at most /100 to x100


class Scale(NamedTuple):
    """What the ends of a colour scale stand for."""

    low: float
    high: float


def absolute_scale(values: np.ndarray) -> Scale | None:
    """Return the range that all but the most extreme positive values lie in; None where there is none."""
    usable = values[np.isfinite(values) & (values > 0.0)]
    if not usable.size:
        return None
    low, high = np.percentile(np.log10(usable), [OUTSIDE, 100.0 - OUTSIDE])
    low = max(low, high - MOST_DECADES)
    missing = max(LEAST_DECADES - float(high - low), 0.0)
    return Scale(float(low) - missing / 2, float(high) + missing / 2)


def relative_scale(ratios: np.ndarray) -> Scale | None:
    """Return a range that has 1 in its middle."""
    usable = ratios[np.isfinite(ratios) & (ratios > 0.0)]
    if not usable.size:
        return None
    distances = np.abs(np.log10(usable))
    usual = float(np.percentile(distances, 100.0 - 2 * OUTSIDE))
    widest = min(float(distances.max()), ROOM * usual)
    decades = min(max(widest, RELATIVE_DECADES[0]), RELATIVE_DECADES[1])
    return Scale(-decades, decades)


def levels(values: np.ndarray, nonfinite: np.ndarray, scale: Scale | None) -> np.ndarray:
    """Return the entry of the palette of each cell, as bytes.

    Args:
        values: any shape; NaN is not known.
        nonfinite: the same shape: what was NaN or infinite, whatever ``values`` says.
        scale: powers of ten of both ends.
    """
    found = np.full(values.shape, UNKNOWN, dtype=np.uint8)
    positive = np.isfinite(values) & (values > 0.0)
    if scale is not None:
        part = (np.log10(values, where=positive, out=np.zeros(values.shape)) - scale.low) / (scale.high - scale.low)
        found[positive] = np.rint(np.clip(part, 0.0, 1.0) * (LEVELS - 1)).astype(np.uint8)[positive]
    found[values == 0.0] = ZERO
    found[nonfinite | np.isinf(values)] = NONFINITE
    return found


def rows_of(layers: int) -> int:
    """Return how many layers share a row."""
    return -(-layers // MOST_ROWS)


def merged_rows(values: np.ndarray, each: int, *, around_one: bool = False) -> np.ndarray:
    """Return [columns, rows]: of ``each`` layers in a row the largest value, or the one farthest from 1."""
    if each == 1:
        return values
    start = np.arange(0, values.shape[1], each)
    largest = np.fmax.reduceat(values, start, axis=1)
    if not around_one:
        return largest
    least = np.fmin.reduceat(values, start, axis=1)
    return np.where(largest * least >= 1.0, largest, np.where(np.isnan(least), largest, least))


def merged_flags(flags: np.ndarray, each: int) -> np.ndarray:
    """Return [columns, rows]: whether any of ``each`` layers is so."""
    return flags if each == 1 else np.logical_or.reduceat(flags, np.arange(0, flags.shape[1], each), axis=1)


def across(columns: Columns) -> list[tuple[int, int]]:
    """Return which columns each pixel of a row shows: first, and one behind the last.

    Where all columns span as many steps a pixel is a column. Otherwise (a log that was thinned) pixels span as many
    steps, and show all columns that reach into them.
    """
    if columns.even:
        return [(index, index + 1) for index in range(columns.first.size)]
    begin, end = int(columns.first[0]), int(columns.last[-1]) + 1
    edges = np.linspace(begin, end, min(MOST_PIXELS, end - begin) + 1)
    first = np.searchsorted(columns.last, edges[:-1].astype(np.int64), side="left")
    behind = np.searchsorted(columns.first, np.ceil(edges[1:]).astype(np.int64) - 1, side="right")
    return list(zip(first.tolist(), np.maximum(behind, first + 1).tolist(), strict=True))


def stretched(values: np.ndarray, spans: list[tuple[int, int]]) -> np.ndarray:
    """Return [pixels, rows]: the largest value of the columns that each pixel shows; also of flags."""
    ends = np.array(spans).ravel()
    padded = np.concatenate([values, values[-1:]])  # reduceat wants every end to be an index
    return np.asarray(np.fmax.reduceat(padded, ends, axis=0)[::2])


def png(found: np.ndarray, scale_colours: np.ndarray) -> str:
    """Return an indexed PNG as a data URI; what is not known is transparent.

    Args:
        found: [pixels, rows] entries of the palette; rows go downwards.
        scale_colours: [LEVELS, 3], as ``colours.sequential`` returns it.
    """
    width, height = found.shape
    picture = Image.frombytes("P", (width, height), np.ascontiguousarray(found.T).tobytes())
    picture.putpalette(colours.palette(scale_colours))
    file = io.BytesIO()
    picture.save(file, "PNG", transparency=UNKNOWN, compress_level=6)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
