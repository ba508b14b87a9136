from __future__ import annotations

import math
from array import array
from dataclasses import fields, replace
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradwatch.records import LayerNorms, LayerTable
from gradwatch.serialization.tensorboard_rows import CURVE_NAMES, METRICS, ROWS_PER_WINDOW, UNKNOWN
from gradwatch.sinks.row_pooling import RowPool, Schedule, as_float32, layer_values, worse
from tests.sinks.samples import step_record, with_layer

if TYPE_CHECKING:
    from gradwatch.records import StepRecord

GRAD_NORM = METRICS.index("grad_norm")
LAYERS = tuple(step_record().layers)
CURVES: dict[str, int] = {name: i for i, name in enumerate(CURVE_NAMES)}
VALUES = st.sampled_from([0.0, 1.0, 2.5, 1e30, math.inf, math.nan, None])


def at(log_step: int, **changes: Any) -> StepRecord:
    return step_record(log_step=log_step, step=log_step, **changes)


def pool_of(*records: StepRecord) -> RowPool:
    pool = RowPool(tuple(records[0].layers))
    for record in records:
        pool.add(record)
    return pool


def written(records: list[StepRecord]) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """What a sink would write: full rows at once, the rest at the end; by step, the last one holds."""
    pool, rows = RowPool(tuple(records[0].layers)), {}
    for record in records:
        pool.add(record)
        if pool.is_due:
            rows[pool.last] = pool.take()
    if pool.waits:
        rows[pool.last] = pool.take()
    return [(step or 0, *row) for step, row in rows.items()]


# -- one row -----------------------------------------------------------------------------------------------------------


def test_layers_become_an_array_in_model_order() -> None:
    record = with_layer(step_record(3), "block.1", grad_norm=None, update_ratio=math.nan)
    record = with_layer(record, "block.2", grad_norm=math.inf, nonfinite=7)
    values = layer_values(record.layers)
    expected = [[0.1, UNKNOWN, math.inf], [3.0, 4.0, 5.0], [1e-3, math.nan, 1e-3], [0, 0, 7]]
    np.testing.assert_array_equal(values, expected)


def test_the_gradient_norm_is_the_largest_since_the_record_before() -> None:
    record = with_layer(step_record(4), "block.0", grad_norm_max=9.0)
    record = with_layer(record, "block.1", grad_norm=None, grad_norm_max=0.0)
    record = with_layer(record, "block.2", grad_norm=math.nan, grad_norm_max=5.0, nonfinite=1)
    record = with_layer(record, "block.3", grad_norm=None, grad_norm_max=5.0)
    np.testing.assert_array_equal(layer_values(record.layers)[0], [9.0, UNKNOWN, math.nan, 5.0])


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, 1e300])
def test_what_is_known_is_not_taken_for_unknown(value: float) -> None:
    layers = {"a": LayerNorms(grad_norm=value, weight_norm=None, update_ratio=1.0, nonfinite=0)}
    np.testing.assert_array_equal(layer_values(layers)[:, 0], [value, UNKNOWN, 1.0, 0])


@pytest.mark.parametrize(("missing", "expected"), [((), [1.0, 2.0]), ((0, 1), [UNKNOWN, UNKNOWN])])
def test_positions_of_what_is_missing_may_be_a_tuple(missing: tuple[int, ...], expected: list[float]) -> None:
    columns = {field.name: array("d", [1.0, 2.0]) for field in fields(LayerNorms)}
    layers = LayerTable(("a", "b"), columns, {"update_ratio": missing})
    np.testing.assert_array_equal(layer_values(layers)[2], expected)


def test_a_model_without_layers_has_empty_rows() -> None:
    assert layer_values({}).shape == (4, 0)
    assert pool_of(at(0, layers={})).take()[0].shape == (4, 0)


@given(st.lists(VALUES, min_size=1, max_size=8))
def test_the_worst_of_a_window_is_kept(values: list[float | None]) -> None:
    records = [with_layer(at(i), "block.0", grad_norm=value) for i, value in enumerate(values)]
    row, _ = pool_of(*records).take()
    known = [value for value in values if value is not None]
    expected = UNKNOWN if not known else math.nan if any(map(math.isnan, known)) else max(known)
    np.testing.assert_array_equal(row[GRAD_NORM, 0], np.float32(expected))
    assert row.dtype == np.float32


def test_huge_norms_stay_finite_in_float32() -> None:
    values = as_float32(np.array([1e300, -1e300, math.inf, -math.inf, math.nan, 1.0, UNKNOWN]))
    largest = np.finfo(np.float32).max
    np.testing.assert_array_equal(values, [largest, -largest, math.inf, -math.inf, math.nan, 1.0, UNKNOWN])


@given(VALUES, VALUES, VALUES)
def test_worse_is_associative_and_commutes(a: float | None, b: float | None, c: float | None) -> None:
    assert str(worse(a, b)) == str(worse(b, a))
    assert str(worse(worse(a, b), c)) == str(worse(a, worse(b, c)))
    assert worse(a, None) is a


# -- curves ------------------------------------------------------------------------------------------------------------


def curves_of(*records: StepRecord) -> dict[str, float]:
    return dict(zip(CURVE_NAMES, pool_of(*records).take()[1].tolist(), strict=True))


def test_the_curves_of_one_record() -> None:
    assert curves_of(at(12)) == {
        "first": 12,
        "records": 1,
        "steps": 10,
        "step": 12,
        "loss": 0.5,
        "loss_max": 0.75,
        "grad_norm": 2.0,
        "grad_norm_max": 2.5,
        "grad_norm_max_step": 7,
        "clip_coefficient": 0.5,
        "clipped_steps": 3,
        "max_norm": 1.0,
        "lr": 1e-3,
        "loss_scale": UNKNOWN,
        "nonfinite_steps": 0,
        "skipped_steps": 0,
        "row": 0,
    }


def test_curves_are_pooled_each_in_its_way() -> None:
    first, second = at(10, loss=1.0, grad_norm=4.0, loss_scale=8.0), at(20, loss=3.0, lr=0.5, loss_scale=16.0)
    second = replace(
        second,
        clip=replace(second.clip, coefficient=1.0, max_norm=None),
        window=replace(second.window, nonfinite_steps=1, skipped_steps=2, grad_norm_max=3.0),
    )
    row = curves_of(first, second)
    assert (row["first"], row["step"], row["records"], row["steps"]) == (10, 20, 2, 20)
    assert (row["loss"], row["loss_max"]) == (2.0, 3.0)
    assert (row["grad_norm"], row["grad_norm_max"], row["grad_norm_max_step"]) == (3.0, 4.0, 10)
    assert (row["clip_coefficient"], row["clipped_steps"], row["max_norm"], row["lr"]) == (0.5, 6, UNKNOWN, 0.5)
    assert (row["loss_scale"], row["nonfinite_steps"], row["skipped_steps"]) == (8.0, 1, 2)


def test_a_bad_loss_is_the_largest_and_stays_out_of_the_mean() -> None:
    for bad in (math.nan, math.inf):
        row = curves_of(at(0, loss=1.0), at(1, loss=bad), at(2, loss=3.0))
        assert row["loss"] == 2.0
        np.testing.assert_array_equal(row["loss_max"], bad)
        only = curves_of(at(0, loss=bad, grad_norm=bad), at(1, loss=bad, grad_norm=bad))
        np.testing.assert_array_equal([only["loss"], only["grad_norm"]], [bad, bad])


def test_what_nobody_knows_is_unknown_and_gives_way_to_what_is_known() -> None:
    window = replace(step_record().window, grad_norm_max=None, loss_max=None, grad_norm_max_step=None)
    nothing = at(0, loss=None, grad_norm=None, lr=None, window=window)
    names = ("loss", "loss_max", "grad_norm", "grad_norm_max", "grad_norm_max_step", "lr", "loss_scale")
    row = curves_of(nothing)
    assert {row[name] for name in names} == {UNKNOWN}
    for records in ((nothing, at(1, loss_scale=2.0)), (at(1, loss_scale=2.0), replace(nothing, log_step=2))):
        row = curves_of(*records)
        assert UNKNOWN not in {row[name] for name in names if name != "lr"}


# -- many rows ---------------------------------------------------------------------------------------------------------


def test_windows_double() -> None:
    rows = written([at(i) for i in range(3 * ROWS_PER_WINDOW + 1)])
    assert [int(row[2][CURVES["records"]]) for row in rows] == [1] * 180 + [2] * 180 + [1]
    assert [int(row[2][CURVES["row"]]) for row in rows] == list(range(361))
    assert [row[0] for row in rows] == [*range(180), *range(181, 541, 2), 540]


def test_every_record_is_in_exactly_one_row_and_none_is_lost() -> None:
    records = [with_layer(at(i), "block.0", grad_norm=float(i % 777)) for i in range(5000)]
    rows = written(records)
    begin = 0
    for last, layers, curves in rows:
        window = records[begin : last + 1]
        assert curves[CURVES["records"]] == len(window)
        assert layers[GRAD_NORM, 0] == max(record.layers["block.0"].grad_norm or 0.0 for record in window)
        begin = last + 1
    assert begin == 5000
    assert len(rows) < 1000


def test_a_second_record_at_the_same_log_step_joins_the_row_that_was_written() -> None:
    """As the generator and the discriminator of one batch, or an optimizer that steps twice in it."""
    records = [with_layer(at(i // 2), "block.0", grad_norm=float(100 - i)) for i in range(10)]
    rows = written(records)
    assert [row[0] for row in rows] == [0, 1, 2, 3, 4]
    assert [row[1][GRAD_NORM, 0] for row in rows] == [100, 98, 96, 94, 92]
    assert [row[2][CURVES["records"]] for row in rows] == [2] * 5


def test_a_row_closed_early_takes_a_late_record_of_its_step_and_no_other() -> None:
    pool = RowPool(LAYERS)
    pool._schedule.window = 8
    pool.add(at(200))
    assert (pool.waits, pool.is_due, pool.may_close) == (True, False, True)
    pool.take()
    pool.add(with_layer(at(200), "block.0", grad_norm=9.0))
    assert pool.is_due
    assert pool.take()[0][GRAD_NORM, 0] == 9.0
    pool.add(at(201))
    assert not pool.is_due
    row, curves = pool.take()
    assert (row[GRAD_NORM, 0], curves[CURVES["first"]]) == (np.float32(0.1), 201)


@pytest.mark.parametrize("often", [1, 2, 10, 1000])
def test_however_often_rows_are_closed_early_their_number_stays_small(often: int) -> None:
    schedule, random, rows, records = Schedule(), Random(often), 0, 0
    while records < 1_000_000:
        early = schedule.allows_early and random.randrange(often) == 0
        waiting = 1 if early else schedule.window
        schedule.count(waiting)
        rows, records = rows + 1, records + waiting
    assert rows < 2800
