"""A run in few numbers, against what they are by definition."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gradwatch.report import summary
from gradwatch.report.columns import StepTable
from gradwatch.report.run import read_runs
from gradwatch.serialization import to_dict
from tests.report.logs import at, last_steps, pooled_record, write_log
from tests.sinks.samples import with_layer

if TYPE_CHECKING:
    from pathlib import Path

    from gradwatch.records import Event, StepRecord
    from gradwatch.report.run import Run
    from gradwatch.report.steps import Steps


def table(*records: StepRecord) -> Steps:
    collected = StepTable(0)
    for record in records:
        collected.add(to_dict(record))
    return collected.finish({})


def norms(values: list[float | None]) -> Steps:
    """Records whose layer block.0 has these gradient norms."""
    return table(*(with_layer(at(step), "block.0", grad_norm=value) for step, value in enumerate(values)))


def layer(steps: Steps, name: str = "block.0") -> summary.LayerCourse:
    return next(course for course in summary.layer_courses(steps) if course.name == name)


def read(folder: Path, *events: Event) -> Run:
    write_log(folder, *events)
    (run,) = read_runs(folder)
    return run


# -- curves ----------------------------------------------------------------------------------------------------------


def course(steps: Steps, name: str) -> summary.Course:
    return summary.course(steps.step, summary.curves(steps)[name])


def test_first_least_largest_and_last() -> None:
    steps = table(at(1, loss=3.0), at(2, loss=9.0), at(3, loss=0.125))
    assert course(steps, "loss") == summary.Course(3.0, 0.125, 9.0, 2, 0.125, 0)


def test_extremes_are_those_between_records_and_of_pooled_ones() -> None:
    steps = table(pooled_record(20), at(30))
    assert course(steps, "grad_norm") == summary.Course(2.0, 1.0, 50.0, 20, 2.0, 0)


def test_a_nan_is_not_what_is_not_known() -> None:
    steps = table(at(1, loss=None), at(2, loss=1.0), at(3, loss=math.nan), at(4, loss=-math.inf))
    found = course(steps, "loss")
    assert (found.first, found.last, found.nonfinite) == (1.0, -math.inf, 2)
    assert course(table(at(1, loss=1.0), at(2, loss=None)), "loss").last is None
    last = course(table(at(1, loss=1.0), at(2, loss=math.nan)), "loss").last
    assert last is not None
    assert math.isnan(last)


def test_curves_that_were_never_recorded_are_left_out() -> None:
    assert list(summary.curves(table(at(1, lr=None)))) == ["loss", "grad_norm"]
    assert list(summary.curves(table(at(1, loss_scale=2.0)))) == ["loss", "grad_norm", "lr", "loss_scale"]
    nothing = replace(at(1, loss=None, grad_norm=None, lr=None))
    nothing = replace(nothing, window=replace(nothing.window, grad_norm_max=None, loss_max=None))
    assert summary.curves(table(nothing)) == {}


def test_a_curve_that_was_nan_from_the_start() -> None:
    record = at(1, loss=math.nan)
    record = replace(record, window=replace(record.window, loss_max=None))
    found = course(table(record), "loss")
    assert found.nonfinite == 1
    assert math.isnan(found.max)
    assert math.isnan(found.min)


# -- layers ----------------------------------------------------------------------------------------------------------


def test_growth_is_against_what_was_before() -> None:
    found = layer(norms([1.0, 2.0, 3.0, 2.0, 2.0, 20.0, 2.0]))
    assert (found.usual, found.peak, found.peak_step, found.growth, found.last) == (2.0, 20.0, 5, 10.0, 2.0)


def test_large_gradients_of_the_first_steps_are_no_growth() -> None:
    found = layer(norms([100.0, 50.0, 20.0, 10.0, 5.0, 4.0, 3.0]))
    assert found.growth < 1.0


def test_too_few_records_for_growth() -> None:
    found = layer(norms([1.0, 1.0, 100.0, 1.0]))
    assert math.isnan(found.growth)
    assert (found.usual, found.peak, found.peak_step) == (1.0, 100.0, 2)


def test_a_spike_between_records_is_growth() -> None:
    pooled = with_layer(pooled_record(9), "block.0", grad_norm=0.1)
    found = layer(table(*(at(step) for step in range(5)), pooled))
    assert (found.peak, found.peak_step) == (9.0, 9)
    assert found.growth == pytest.approx(90.0)


def test_dead_is_a_gradient_of_zero_at_the_last_records() -> None:
    assert layer(norms([1.0, 0.0, 0.0, 0.0])).dead
    assert not layer(norms([0.0, 0.0, 0.0, 1e-30])).dead
    assert not layer(norms([0.0, 0.0])).dead
    assert not layer(norms([1.0, None, None, None])).dead  # frozen, or not used any more


def test_the_worst_come_first() -> None:
    calm = at(0).layers["block.0"]
    layers = dict.fromkeys(("calm", "grown", "dead", "bad"), calm)
    late = layers | {"grown": replace(calm, grad_norm=1.0), "dead": replace(calm, grad_norm=0.0)}
    worst = late | {"bad": replace(calm, grad_norm=math.inf, nonfinite=3)}
    records = [at(step, layers=each) for step, each in enumerate([layers] * 4 + [late, worst, late, late])]
    courses = summary.layer_courses(table(*records))
    assert [course.name for course in courses] == ["bad", "dead", "grown", "calm"]
    assert (courses[0].nonfinite, courses[1].dead) == (3, True)
    assert courses[2].growth == pytest.approx(10.0)


def test_a_layer_without_gradients_has_no_numbers() -> None:
    found = layer(norms([None] * 6))
    assert all(math.isnan(value) for value in (found.usual, found.peak, found.growth, found.last))


def test_no_records_no_layers() -> None:
    assert summary.layer_courses(StepTable(0).finish({})) == []
    assert summary.layer_courses(table(at(1, layers={}))) == []


SHAPES = st.tuples(st.integers(1, 30), st.integers(1, 4))


@given(arrays.arrays(float, SHAPES, elements=st.floats(allow_subnormal=False)))
def test_medians_are_those_of_numpy(values: np.ndarray) -> None:
    finite = np.where(np.isfinite(values), values, np.nan)
    for place, median in enumerate(summary._medians(values)):
        column = finite[:, place][~np.isnan(finite[:, place])]
        # Halved, as the sum of two values at the end of the range is infinite.
        expected = 2 * np.median(column / 4) * 2 if column.size else np.nan
        np.testing.assert_allclose(median, expected, rtol=1e-12, atol=1e-300)


@given(st.lists(st.floats(min_value=0.0) | st.just(math.nan) | st.none(), min_size=1, max_size=80))
def test_any_layer_has_a_course(values: list[Any]) -> None:
    found = layer(norms(values))
    assert not found.growth < 0
    assert math.isnan(found.peak) or math.isfinite(found.peak)


# -- the last known state --------------------------------------------------------------------------------------------


def test_the_last_steps_know_more_than_the_last_record(tmp_path: Path) -> None:
    run = read(tmp_path, at(20), last_steps(19, loss=[1.0, 2.0, None], lr=[0.1, 0.1, 0.2]))
    assert summary.last_states(run) == [summary.LastState(0, "last_steps", 21, 0, None, 2.0, 1.0, 0.2, None)]


def test_a_record_that_is_newer_knows_more_than_the_last_steps(tmp_path: Path) -> None:
    (state,) = summary.last_states(read(tmp_path, last_steps(1), at(20, loss_scale=8.0)))
    assert state == summary.LastState(0, "record", 20, 1, 0.5, 2.0, 0.5, 1e-3, 8.0)


def test_each_optimizer_has_a_state(tmp_path: Path) -> None:
    run = read(tmp_path, at(20), last_steps(30, optimizer=1), last_steps(28, optimizer=1, reason="finding a"))
    assert [(state.optimizer, state.source, state.step) for state in summary.last_states(run)] == [
        (0, "record", 20),
        (1, "last_steps", 32),
    ]


def test_last_steps_are_those_of_the_lowest_rank(tmp_path: Path) -> None:
    write_log(tmp_path, last_steps(10))
    write_log(tmp_path, last_steps(99, rank=1), rank=1)
    runs = read_runs(tmp_path)
    merged = replace(runs[0], last_steps=[event for run in runs for event in run.last_steps])
    assert summary.newest_last_steps(merged)[0].steps[-1] == 12


def test_nothing_is_known_of_a_run_that_wrote_nothing(tmp_path: Path) -> None:
    run = read(tmp_path, last_steps(10, 0, step=1))
    assert (summary.last_states(run), summary.newest_last_steps(run)) == ([], {})
