"""Heatmaps, read back from their PNG: each cell has the colour of its value."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from gradwatch.report.html import colours
from gradwatch.report.html.columns import Columns, columns_of
from gradwatch.report.html.heatmap import (
    MOST_DECADES,
    MOST_ROWS,
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

NONE = np.zeros((2, 3), dtype=bool)


def pixels(uri: str) -> np.ndarray:
    """RGBA of each pixel: [height, width, 4]."""
    picture = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))
    assert picture.mode == "P"
    return np.array(picture.convert("RGBA"))


def test_a_cell_has_the_colour_of_its_value() -> None:
    values = np.array([[1.0, 10.0, 100.0], [0.0, np.nan, 10.0]])
    bad = np.array([[False, False, False], [False, False, True]])
    seen = pixels(png(levels(values, bad, Scale(0.0, 2.0)), colours.sequential()))
    assert seen.shape == (3, 2, 4)  # layers are rows, columns of records are columns
    scale = colours.sequential()
    assert seen[0, 0, :3].tolist() == scale[0].tolist()
    assert seen[1, 0, :3].tolist() == scale[round(0.5 * (colours.LEVELS - 1))].tolist()
    assert seen[2, 0, :3].tolist() == scale[-1].tolist()
    assert tuple(seen[0, 1, :3]) == colours.ZERO_COLOUR
    assert tuple(seen[2, 1, :3]) == colours.NONFINITE_COLOUR
    assert seen[..., 3].tolist() == [[255, 255], [255, 0], [255, 255]]  # what is not known is transparent


def test_a_spike_beyond_the_scale_has_its_last_colour() -> None:
    found = levels(np.array([[1e30, 1e-30, np.inf]]), NONE[:1], Scale(-1.0, 1.0))
    assert found.tolist() == [[colours.LEVELS - 1, 0, colours.NONFINITE]]


def test_one_in_the_middle_of_the_relative_scale() -> None:
    found = levels(np.array([[0.1, 1.0, 10.0]]), NONE[:1], Scale(-1.0, 1.0))
    assert found[0, 0] == 0
    assert abs(found[0, 1] - (colours.LEVELS - 1) / 2) <= 0.5
    assert found[0, 2] == colours.LEVELS - 1


def test_scales_leave_out_the_most_extreme() -> None:
    values = np.exp(np.linspace(0.0, np.log(1000.0), 100_000))
    values[7] = 1e30
    scale = absolute_scale(values)
    assert scale is not None
    assert (scale.low, scale.high) == pytest.approx((0.015, 2.985), abs=0.01)


@pytest.mark.parametrize("values", [np.zeros(3), np.full(3, np.nan), np.zeros(0)])
def test_no_scale_without_a_positive_value(values: np.ndarray) -> None:
    assert absolute_scale(values) is None
    assert relative_scale(values) is None
    assert set(levels(values, values > 1, None).tolist()) <= {colours.ZERO, colours.UNKNOWN}


def test_scales_are_neither_too_narrow_nor_too_wide() -> None:
    narrow, wide = absolute_scale(np.full(9, 3.0)), absolute_scale(10.0 ** np.linspace(-30, 0, 1000))
    assert narrow is not None
    assert wide is not None
    assert narrow.high - narrow.low == pytest.approx(0.5)
    assert wide.high - wide.low == pytest.approx(MOST_DECADES)
    calm, wild = relative_scale(np.full(9, 1.01)), relative_scale(10.0 ** np.linspace(-9, 9, 1000))
    assert calm == pytest.approx((-np.log10(2), np.log10(2)))
    assert wild == pytest.approx((-2.0, 2.0))


def test_layers_that_share_a_row_show_the_largest() -> None:
    assert [rows_of(layers) for layers in (1, MOST_ROWS, MOST_ROWS + 1, 2000)] == [1, 1, 2, 3]
    values = np.array([[1.0, 5.0, np.nan, 2.0, 0.01]])
    np.testing.assert_array_equal(merged_rows(values, 2), [[5.0, 2.0, 0.01]])
    np.testing.assert_array_equal(merged_flags(values > 4, 2), [[True, False, False]])


def test_relative_to_the_median_they_show_the_one_farthest_from_it() -> None:
    values = np.array([[0.01, 5.0, 0.5, 4.0, np.nan, 3.0, np.nan, np.nan]])
    np.testing.assert_array_equal(merged_rows(values, 2, around_one=True), [[0.01, 4.0, 3.0, np.nan]])


def test_even_columns_are_pixels() -> None:
    assert across(columns_of(np.arange(9, 100, 10), 3)) == [(at, at + 1) for at in range(10)]


def test_uneven_columns_are_as_wide_as_they_are_long() -> None:
    columns = Columns(np.arange(3), np.array([0, 80, 90]), np.array([79, 89, 99]))
    spans = across(columns)
    assert len(spans) == 100
    assert [spans[0], spans[79], spans[80], spans[89], spans[90], spans[99]] == [
        (0, 1), (0, 1), (1, 2), (1, 2), (2, 3), (2, 3)
    ]  # fmt: skip


def test_a_pixel_shows_all_columns_that_reach_into_it() -> None:
    last = np.concatenate([[100_000], 100_000 + np.arange(1, 5001)])
    columns = Columns(np.arange(5001), np.concatenate([[0], last[:-1] + 1]), last)
    spans = across(columns)
    values = np.ones((5001, 1))
    values[3333] = 9.0
    shown = stretched(values, spans)
    assert len(shown) == 1000
    assert np.count_nonzero(shown == 9.0) == 1
    assert spans[0][0] == 0
    assert spans[-1][1] == 5001
