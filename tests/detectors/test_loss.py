from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from gradwatch.observations import LossFacts, Observation, Validation
from tests.detectors.constant import observation
from tests.detectors.findings import course, findings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def records(losses: Sequence[float | None], every: int = 10, **changes: Any) -> Iterator[Observation]:
    """Losses at full rate, cut into log steps."""
    for end in range(every, len(losses) + 1, every):
        yield observation(end - 1, every, loss=list(losses[end - every : end]), **changes)


def noisy(level: float | Sequence[float], count: int = 300, noise: float = 0.1, seed: int = 0) -> list[float]:
    """Losses around a level, or a course of levels, with noise relative to it."""
    generator = np.random.default_rng(seed)
    levels = np.full(count, level) if isinstance(level, float) else np.asarray(level)
    return list(levels * (1 + noise * generator.standard_normal(len(levels))))


def falling(count: int = 300, start: float = 2.3, end: float = 0.2) -> list[float]:
    return noisy(list(np.geomspace(start, end, count)), noise=0.1)


# -- loss-spike -----------------------------------------------------------------------------------------------------


def test_a_spike_is_found_with_its_batch() -> None:
    losses = noisy(1.0)
    losses[204] = 9.0
    opened, closed = findings("loss-spike", records(losses))
    assert (opened.status, opened.step, closed.status) == ("opened", 209, "closed")
    assert (opened.evidence["step"], opened.evidence["batch_idx"], opened.evidence["loss"]) == (204, 204, 9.0)
    assert (opened.severity, opened.layer) == ("warning", None)
    assert opened.message.startswith("The loss of step 204 (epoch 0, batch 204) was 9,")


def test_a_spike_that_an_untrained_model_would_have_had_is_info() -> None:
    losses = falling()
    losses[250] = 4.0
    assert findings("loss-spike", records(losses))[0].severity == "info"


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("tail", [2.5, 4.0], ids=["heavy tail", "tail"])
def test_an_own_heavy_tail_is_hardly_ever_one(seed: int, tail: float) -> None:
    losses = list(1 + np.random.default_rng(seed).pareto(tail, 1000))
    assert len([f for f in findings("loss-spike", records(losses)) if f.status == "opened"]) <= 2


def test_a_run_of_spikes_is_one_finding_and_a_new_level_is_learned() -> None:
    losses = noisy(1.0, 100) + noisy(8.0, 500)
    assert course("loss-spike", records(losses))[0] == (109, "opened")
    assert len(findings("loss-spike", records(losses))) <= 3


def test_losses_below_zero_spike_too() -> None:
    losses = noisy(-5.0)
    losses[150] = 20.0
    assert course("loss-spike", records(losses))[0] == (159, "opened")


@pytest.mark.parametrize("losses", [noisy(1.0), falling(), [0.0] * 300, noisy(-3.0), [1e-12] * 300, [2.0] * 300])
def test_healthy_losses_do_not_spike_or_diverge(losses: list[float]) -> None:
    assert findings("loss-spike", records(losses)) == []
    assert findings("loss-divergence", records(losses)) == []


# -- loss-divergence ------------------------------------------------------------------------------------------------


def test_a_loss_above_its_start() -> None:
    losses = noisy(1.0, 100) + noisy(list(np.geomspace(1, 50, 100)))
    (opened, *_) = findings("loss-divergence", records(losses))
    assert (opened.status, opened.severity) == ("opened", "warning")
    assert 109 <= opened.step <= 159


def test_a_gain_that_is_lost_again() -> None:
    losses = falling(200, 2.3, 0.3) + noisy(2.4, 60)
    assert course("loss-divergence", records(losses)) == [(229, "opened")]


def test_a_divergence_is_told_beside_the_start_that_it_is_measured_by() -> None:
    """Not beside the first loss of all, which may be far above: the first steps learn fastest."""
    losses = [9.0, *[1.0] * 99, *[2.0] * 60]
    (opened,) = findings("loss-divergence", records(losses))
    assert opened.message == "The loss has risen to 2, from 1 at the start and 1 at its best (medians of 20 steps)."
    assert opened.evidence == {"loss": 2.0, "start": 1.0, "best": 1.0}


def test_adversarial_losses_may_rise() -> None:
    losses = noisy(list(np.geomspace(1, 50, 300)))
    assert findings("loss-divergence", records(losses))
    assert findings("loss-divergence", records(losses, optimizers=2)) == []


@pytest.mark.parametrize("seed", range(10))
def test_noise_around_zero_is_no_divergence(seed: int) -> None:
    """As the surrogate loss of a policy gradient has it."""
    losses = list(np.random.default_rng(seed).standard_normal(500))
    assert findings("loss-divergence", records(losses)) == []


def test_a_loss_without_a_floor_may_return_to_its_start() -> None:
    """As that of an actor and a critic, whose value it begins with: negative while it learns, near 0 in the end."""
    losses = noisy(0.04, 60, noise=0.01) + noisy(-0.2, 200, noise=0.01) + noisy(0.05, 100, noise=0.01)
    assert {finding.severity for finding in findings("loss-divergence", records(losses))} == {"info"}


def test_a_loss_without_a_floor_that_runs_away_is_a_warning() -> None:
    losses = noisy(list(np.linspace(2, -1, 200))) + noisy(list(np.geomspace(1, 1000, 100)))
    told = findings("loss-divergence", records(losses))
    assert (told[0].status, told[0].severity) == ("opened", "info")
    assert (told[-1].status, told[-1].severity) == ("updated", "warning")


# -- loss-plateau ---------------------------------------------------------------------------------------------------


def test_a_loss_that_stalls_is_told_once() -> None:
    losses = falling(200) + noisy(0.2, 1500, noise=0.001)
    (opened,) = findings("loss-plateau", records(losses))
    assert (opened.status, opened.severity) == ("opened", "info")
    assert 1190 <= opened.step <= 1300


def test_a_loss_that_falls_slowly_does_not_stall() -> None:
    assert findings("loss-plateau", records(noisy(list(np.geomspace(1, 0.3, 3000)), noise=0.01))) == []


# -- negative-loss --------------------------------------------------------------------------------------------------


def test_a_negative_squared_error() -> None:
    losses = [1.0] * 15 + [-0.5] * 5
    (opened,) = findings("negative-loss", records(losses, facts=LossFacts(function="mse_loss")))
    assert opened.message == "The loss was -0.5 at step 15, although mse_loss cannot be negative."


def test_a_loss_of_any_other_kind_may_be_negative() -> None:
    assert findings("negative-loss", records([-1.0] * 20)) == []


def test_rounding_is_not_negative() -> None:
    assert findings("negative-loss", records([-1e-8] * 20, facts=LossFacts(function="mse_loss"))) == []


# -- constant-loss --------------------------------------------------------------------------------------------------


def test_a_constant_loss_over_records() -> None:
    losses = noisy(1.0, 35) + [1.25] * 65
    (opened, *_) = findings("constant-loss", records(losses))
    assert (opened.step, opened.severity, opened.evidence) == (59, "warning", {"loss": 1.25, "count": 25})


def test_a_loss_that_has_come_down_to_a_constant_is_info() -> None:
    assert findings("constant-loss", records([2.0] * 3 + [0.0] * 97))[0].severity == "info"


def test_a_loss_that_changes_in_the_last_digit_is_not_constant() -> None:
    assert findings("constant-loss", records([1.0 + 1e-7 * (i % 2) for i in range(100)])) == []


# -- validation-divergence ------------------------------------------------------------------------------------------


def validated(pairs: Sequence[tuple[float, float]]) -> Iterator[Observation | Validation]:
    for i, (train, validation) in enumerate(pairs):
        yield observation(10 * i + 9, loss=train)
        yield Validation(
            time=1.0,
            step=10 * i + 9,
            epoch=i,
            batch_idx=None,
            rank=0,
            losses={"val_loss": validation, "val_x_loss": 1.0},
        )


OVERFITTING = [(1.0, 1.0), (0.8, 0.9), (0.6, 1.3), (0.4, 1.4), (0.2, 1.6)]


def test_a_validation_loss_that_rises_alone() -> None:
    (opened,) = findings("validation-divergence", validated(OVERFITTING))
    assert (opened.step, opened.severity) == (49, "info")
    assert "val_loss has risen to 1.6 from its best 0.9 at step 19" in opened.message
    assert "leakage" in opened.advice


def test_both_losses_rising_is_another_matter() -> None:
    assert findings("validation-divergence", validated([(v, v) for _, v in OVERFITTING])) == []


def test_a_validation_loss_that_is_not_finite_is_passed_over() -> None:
    gap = [*OVERFITTING[:3], (0.5, math.nan), *OVERFITTING[3:]]
    assert [f.status for f in findings("validation-divergence", validated(gap))] == ["opened"]
