from __future__ import annotations

import math
from array import array

import pytest

from gradwatch.capture.history import MAX_ROWS, RING_STEPS, History, StepRow
from gradwatch.records import Window


def row(step: int, *, loss: float | None = 1.0, grad_norm: float = 1.0, coefficient: float = 1.0) -> StepRow:
    return StepRow(step, 0, step, loss, grad_norm, coefficient)


def add(history: History, entry: StepRow, *, nonfinite: bool = False, norms: tuple[float, ...] = (1.0, 1.0)) -> None:
    history.add(entry, array("d", norms), nonfinite=nonfinite)


def test_a_window_has_the_extremes_since_the_last_one() -> None:
    history = History()
    for step, (loss, norm) in enumerate([(3.0, 1.0), (1.0, 9.0), (2.0, 4.0)]):
        add(history, row(step, loss=loss, grad_norm=norm, coefficient=min(1.0, 5 / norm)))
    assert history.close_window() == Window(
        steps=3,
        grad_norm_max=9.0,
        grad_norm_max_step=1,
        loss_max=3.0,
        clipped_steps=1,
        skipped_steps=0,
        nonfinite_steps=0,
    )
    add(history, row(3, loss=0.5, grad_norm=0.25))
    window = history.close_window()
    assert (window.steps, window.grad_norm_max, window.grad_norm_max_step) == (1, 0.25, 3)
    assert (window.loss_max, window.clipped_steps) == (0.5, 0)


def test_a_window_without_steps_has_no_extremes() -> None:
    assert History().close_window() == Window(
        steps=0,
        grad_norm_max=None,
        grad_norm_max_step=None,
        loss_max=None,
        clipped_steps=0,
        skipped_steps=0,
        nonfinite_steps=0,
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_extremes_ignore_what_is_not_finite(bad: float, at: int) -> None:
    history = History()
    norms, losses = [2.0, 1.0], [4.0, 3.0]
    norms.insert(at, bad)
    losses.insert(at, bad)
    for step, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
        add(history, row(step, loss=loss, grad_norm=norm)._replace(skipped=step == at), nonfinite=step == at)
    window = history.close_window()
    assert (window.grad_norm_max, window.loss_max) == (2.0, 4.0)
    assert window.grad_norm_max_step == norms.index(2.0)
    assert (window.nonfinite_steps, window.skipped_steps, window.steps) == (1, 1, 3)


def test_losses_may_be_missing_or_negative() -> None:
    history = History()
    for step, loss in enumerate([None, -3.0, -5.0]):
        add(history, row(step, loss=loss))
    assert history.close_window().loss_max == -3.0
    add(history, row(3, loss=None))
    assert history.close_window().loss_max is None


def test_the_ring_keeps_the_last_rows_over_windows() -> None:
    history = History()
    for step in range(RING_STEPS + 10):
        add(history, row(step))
        if step % 7 == 0:
            history.close_window()
    assert [entry.step for entry in history.rows] == list(range(10, RING_STEPS + 10))


def test_zero_is_an_extreme_too() -> None:
    history = History()
    add(history, row(5, loss=0.0, grad_norm=0.0))
    window = history.close_window()
    assert (window.grad_norm_max, window.grad_norm_max_step, window.loss_max) == (0.0, 5, 0.0)


def test_a_row_keeps_where_it_stands_and_its_learning_rates() -> None:
    """An incident of the next batch names the step at which the optimizer made the value, and what it did there."""
    history = History()
    add(history, StepRow(7, 2, 13, 1.0, 1.0, 1.0, (0.1, 0.01)))
    [kept] = history.rows
    assert (kept.step, kept.epoch, kept.batch_idx, kept.lr) == (7, 2, 13, (0.1, 0.01))
    assert row(1).lr == ()


def test_all_rows_since_the_last_record_are_handed_out_once() -> None:
    history = History()
    for step in range(RING_STEPS + 10):
        add(history, row(step))
    assert [entry.step for entry in history.take_rows()] == list(range(RING_STEPS + 10))
    assert history.take_rows() == []
    for step in range(MAX_ROWS + 5):
        add(history, row(step))
    assert [entry.step for entry in history.take_rows()] == list(range(5, MAX_ROWS + 5))
