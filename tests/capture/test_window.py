from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from gradwatch.capture.window import MAX_LOSSES, MAX_MICRO_BATCHES, LossMeter, StepWindow
from gradwatch.replica import randomness


def loss(value: float) -> Tensor:
    return torch.tensor(value)


def read(window: StepWindow[Any]) -> list[float]:
    """What an optimizer step does first: bring every scalar to the host."""
    return window.take([float(scalar) for scalar in window.unread()])


def step(window: StepWindow[Any]) -> tuple[list[float], list[float]]:
    """An optimizer step: the losses read at it, and the bad ones that count for it."""
    losses = read(window)
    bad = window.bad_losses
    window.close()
    return losses, bad


# -- one optimizer ---------------------------------------------------------------------------------------------------


def test_a_batch_and_its_step() -> None:
    window: StepWindow[str] = StepWindow()
    for batch in range(3):
        assert window.starts_anew
        window.begin(f"position {batch}", f"batch {batch}")
        assert not window.starts_anew
        assert not window.waits_for_step
        window.observe(loss(float(batch)))
        assert window.waits_for_step
        assert step(window) == ([float(batch)], [])
        assert not window.waits_for_step
        assert [m.batch for m in window.micro_batches] == [f"batch {batch}"]


def test_the_attributes_from_before_a_batch_are_kept_with_it() -> None:
    window: StepWindow[int] = StepWindow()
    window.begin(0, "a", None, {"tau": 1.0})
    window.begin(1, "b")
    assert [m.attributes for m in window.micro_batches] == [{"tau": 1.0}, {}]


def test_accumulation_keeps_the_batches_of_one_step() -> None:
    window: StepWindow[int] = StepWindow()
    for start in (0, 4):
        for batch in range(start, start + 4):
            window.begin(batch, batch)
            window.observe(loss(batch))
        assert [m.position for m in window.micro_batches] == list(range(start, start + 4))
        assert [m.index for m in window.micro_batches] == [0, 1, 2, 3]
        assert step(window) == ([*map(float, range(start, start + 4))], [])


def test_a_batch_without_a_loss_takes_part_in_the_window() -> None:
    """``training_step`` that returns None in a window of accumulation."""
    window: StepWindow[int] = StepWindow()
    window.begin(0, "a")
    window.observe(loss(1.0))
    window.begin(1, "b")
    assert not window.waits_for_step
    window.begin(2, "c")
    window.observe(loss(2.0))
    assert step(window) == ([1.0, 2.0], [])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("guilty", [0, 1, 2])
def test_the_first_bad_loss_names_its_micro_batch(bad: float, guilty: int) -> None:
    window: StepWindow[int] = StepWindow()
    for batch in range(3):
        window.begin(batch, batch)
        window.observe(loss(bad if batch >= guilty else 1.0))
    read(window)
    assert window.first_bad().position == guilty
    assert len(window.bad_losses) == 3 - guilty


@pytest.mark.parametrize("guilty", [0, 1])
def test_the_norm_after_each_backward_names_the_micro_batch(guilty: int) -> None:
    """Losses are finite; the gradients are bad from the guilty batch on."""
    window: StepWindow[int] = StepWindow()
    for batch in range(3):
        window.begin(batch, batch)
        window.observe(loss(1.0))
        if batch < 2:
            window.flag_gradients([loss(math.nan if batch >= guilty else 2.0), None])
    assert read(window) == [1.0, 1.0, 1.0]
    assert window.bad_losses == []
    assert window.first_bad().position == guilty
    assert window.micro_batches[0].gradient_norm == pytest.approx(math.nan if guilty == 0 else 2.0, nan_ok=True)


def test_the_step_itself_is_blamed_on_the_last_batch() -> None:
    window: StepWindow[int] = StepWindow()
    for batch in range(3):
        window.begin(batch, batch)
        window.observe(loss(1.0))
    read(window)
    assert window.first_bad().position == 2


@pytest.mark.parametrize("norms", [(1.0, math.nan), (math.nan, 1.0), (math.inf, 1.0), (1.0, math.inf)])
def test_flagging_keeps_the_worst_of_several_optimizers(norms: tuple[float, float]) -> None:
    window: StepWindow[int] = StepWindow()
    window.begin(0, "a")
    window.observe(loss(1.0))
    window.flag_gradients(loss(norm) for norm in norms)
    window.begin(1, "b")
    read(window)
    assert window.first_bad().position == 0


def test_flagging_without_gradients_changes_nothing() -> None:
    window: StepWindow[int] = StepWindow()
    window.begin(0, "a")
    window.observe(loss(1.0))
    window.flag_gradients([None, None])
    assert read(window) == [1.0]


def test_a_window_that_is_never_closed_stays_bounded() -> None:
    window: StepWindow[int] = StepWindow()
    for batch in range(3 * MAX_MICRO_BATCHES + 5):
        window.begin(batch, object())
        window.observe(loss(1.0))
        assert len(window.micro_batches) <= MAX_MICRO_BATCHES
    assert [m.position for m in window.micro_batches] == list(range(3 * MAX_MICRO_BATCHES, 3 * MAX_MICRO_BATCHES + 5))


# -- several optimizers ----------------------------------------------------------------------------------------------


def test_two_optimizers_in_one_batch_share_its_losses() -> None:
    """GAN: each backward is followed by a step; a bad loss of the first counts for the second in the same batch."""
    window: StepWindow[int] = StepWindow()
    window.begin(0, "a")
    window.observe(loss(math.nan))
    assert step(window)[0] == pytest.approx([math.nan], nan_ok=True)
    assert not window.waits_for_step
    window.observe(loss(2.0))
    assert window.waits_for_step
    losses, bad = step(window)
    assert losses == [2.0]
    assert len(bad) == 1
    assert window.first_bad().position == 0


def test_a_loss_that_was_judged_does_not_condemn_a_later_batch() -> None:
    window: StepWindow[int] = StepWindow()
    window.begin(0, "a")
    window.observe(loss(math.nan))
    step(window)
    window.observe(loss(1.0))  # the second optimizer's, which does not step in this batch
    assert window.waits_for_step
    window.begin(1, "b")
    assert [m.position for m in window.micro_batches] == [0, 1]
    window.observe(loss(3.0))
    losses, bad = step(window)
    assert (losses, bad) == ([1.0, 3.0], [])


def test_a_loss_that_nobody_judged_counts_in_a_later_batch() -> None:
    window: StepWindow[int] = StepWindow()
    window.begin(0, "a")
    window.observe(loss(1.0))
    step(window)
    window.observe(loss(math.nan))
    window.begin(1, "b")
    window.observe(loss(3.0))
    read(window)
    assert len(window.bad_losses) == 1
    assert window.first_bad().position == 0


def test_two_optimizers_across_batches() -> None:
    """The critic steps in every batch, the generator after every third one; its window is the last batch only."""
    window: StepWindow[int] = StepWindow()
    judged = []
    for batch in range(6):
        window.begin(batch, batch)
        window.observe(loss(math.nan if batch == 1 else 1.0))
        judged.append(bool(step(window)[1]))
        if batch % 3 == 2:
            window.observe(loss(5.0))
            judged.append(bool(step(window)[1]))
    assert judged == [False, True, False, False, False, False, False, False]


# -- the mean loss ---------------------------------------------------------------------------------------------------


def test_the_mean_is_over_the_losses_since_the_last_step() -> None:
    meter = LossMeter(1)
    meter.add([1.0, 2.0])
    meter.add([6.0])
    assert meter.take(0) == 3.0
    assert meter.take(0) is None
    meter.add([4.0])
    assert meter.take(0) == 4.0


def test_every_optimizer_has_its_own_mean() -> None:
    """Critic and generator: the generator's covers all batches since its last step."""
    meter = LossMeter(2)
    meter.add([1.0])
    assert meter.take(0) == 1.0
    meter.add([3.0])
    assert meter.take(0) == 3.0
    assert meter.take(1) == 2.0
    meter.add([5.0])
    assert meter.take(1) == 5.0
    assert meter.take(0) == 5.0


def test_an_optimizer_that_joins_later_has_no_losses_yet() -> None:
    meter = LossMeter(1)
    meter.add([1.0])
    assert meter.take(3) is None
    meter.add([2.0])
    assert meter.take(3) == 2.0
    assert meter.take(0) == 1.5


def test_a_bad_loss_stays_visible_in_the_mean() -> None:
    meter = LossMeter(1)
    meter.add([1.0, math.nan])
    assert math.isnan(meter.take(0) or 0.0)
    meter.add([1.0])
    assert meter.take(0) == 1.0


def test_an_optimizer_that_never_steps_costs_a_bounded_amount() -> None:
    meter = LossMeter(2)
    for value in range(2 * MAX_LOSSES):
        meter.add([float(value)])
        meter.take(0)
    assert meter.take(1) == pytest.approx(1.5 * MAX_LOSSES - 0.5)


def test_every_micro_batch_keeps_the_random_state_from_before_it() -> None:
    window: StepWindow[int] = StepWindow()
    states = [randomness.capture(), None, randomness.capture()]
    for batch, state in enumerate(states):
        window.begin(batch, batch, state)
        window.observe(loss(1.0))
    assert all(m.random_state is state for m, state in zip(window.micro_batches, states, strict=True))
