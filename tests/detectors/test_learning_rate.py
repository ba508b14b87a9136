from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from gradwatch.detectors.learning_rate import DETECTORS
from gradwatch.observations import Setting
from tests.detectors.observations import PER_EPOCH, findings, observation, opened

if TYPE_CHECKING:
    from collections.abc import Callable


def records(rate: Callable[[Any], Any], last: int = 400, first: int = 10, **changes: Any) -> list[Any]:
    made = []
    for step in range(first, last + 10, 10):
        steps = np.arange(step - 9, step + 1)
        rows = {"lr": rate(steps) * np.ones(10)}
        rows |= {name: change(steps) for name, change in changes.items() if callable(change)}
        fields = {name: change for name, change in changes.items() if not callable(change)}
        made.append(observation(step, rows_changed=rows, **fields))
    return made


def epoch(step: Any) -> Any:
    return (step - 1) // PER_EPOCH


HEALTHY: dict[str, Callable[[Any], Any]] = {
    "constant": lambda _: 1e-3,
    "linear warm-up from 0": lambda step: 1e-5 * np.minimum(step - 1, 100),
    "warm-up from a small start": lambda step: 1e-8 + 1e-5 * np.minimum(step - 1, 100),
    "warm-up by epochs": lambda step: 0.1 * np.minimum(1.0, 0.01 + 0.99 * epoch(step) / 5),
    "cosine to 0": lambda step: 0.5e-3 * (1 + np.cos(np.pi * step / 400)),
    "steps down": lambda step: 0.1 ** (1 + epoch(step)),
    "one cycle": lambda step: 1e-3 * np.where(step < 100, step / 100, (400 - np.minimum(step, 400)) / 300),
    "triangles": lambda step: 1e-5 + 1e-5 * np.abs(step % 100 - 50),
}


@pytest.mark.parametrize("schedule", HEALTHY)
def test_healthy_schedules_are_silent(schedule: str) -> None:
    assert opened(DETECTORS, records(HEALTHY[schedule])) == []


@pytest.mark.parametrize("at", [151, 155, 160, 201])
@pytest.mark.parametrize("factor", [10.0, 400.0])
def test_a_jump_is_told_where_it_is_and_until_it_is_undone(at: int, factor: float) -> None:
    told = findings(DETECTORS, records(lambda s: np.where((s >= at) & (s < 300), 1e-3 * factor, 1e-3), 400))
    assert [(f.code, f.status) for f in told] == [("learning-rate-jump", "opened"), ("learning-rate-jump", "closed")]
    assert told[0].evidence == {
        "before": 1e-3,
        "now": pytest.approx(1e-3 * factor),
        "factor": pytest.approx(factor),
        "jump_step": at,
    }
    assert told[0].step == -(-at // 10) * 10
    assert told[1].step == 320


def test_the_end_of_the_first_epoch_takes_a_hundredfold_jump() -> None:
    assert opened(DETECTORS, records(lambda s: np.where(s > PER_EPOCH, 1e-1, 1e-3))) == [("learning-rate-jump", None)]
    assert opened(DETECTORS, records(lambda s: np.where(s > PER_EPOCH, 2e-2, 1e-3))) == []


def test_a_return_to_a_former_level_is_a_restart() -> None:
    told = findings(DETECTORS, records(lambda s: 1e-3 * (1.01 - (s % 150) / 150)))
    assert {(f.code, f.severity) for f in told} == {("learning-rate-restart", "info")}
    assert [f.evidence["restart_step"] for f in told if f.status == "opened"] == [150, 300]


def test_a_restart_from_zero_is_a_restart() -> None:
    told = opened(DETECTORS, records(lambda s: np.where((s > 100) & (s < 105), 0.0, 1e-3)))
    assert told == [("learning-rate-restart", None)]


def test_a_rate_of_zero_is_told_after_twenty_steps_and_only_once() -> None:
    told = findings(DETECTORS, records(lambda s: np.where(s > 105, 0.0, 1e-3)))
    assert [(f.code, f.step) for f in told] == [("zero-learning-rate", 130)]
    assert told[0].evidence == {"zeros": 25}
    assert opened(DETECTORS, records(lambda s: np.where((s > 105) & (s < 125), 0.0, 1e-3)))[:1] != [
        ("zero-learning-rate", None)
    ]


def test_another_number_of_parameter_groups_is_no_jump() -> None:
    one = records(lambda _: 1e-5, 100)
    two = [observation(step, groups=2, rows_changed={"lr": 1e-2}) for step in range(110, 200, 10)]
    assert opened(DETECTORS, [*one, *two, *records(lambda _: 1e-5, 300, first=200)]) == []


def bump(step: Any) -> Any:
    return 2.3 + 4.0 * np.exp(-(((step - 40) / 15) ** 2)) - 0.005 * step


def test_an_early_rise_of_the_loss_at_full_rate_misses_a_warm_up() -> None:
    told = findings(DETECTORS, records(lambda _: 1e-3, loss=bump))
    assert [(f.code, f.severity, f.status) for f in told] == [
        ("missing-warmup", "info", "opened"),
        ("missing-warmup", "info", "closed"),
    ]
    assert told[0].step <= 200
    assert told[0].evidence["peak_step"] == pytest.approx(40, abs=2)


@pytest.mark.parametrize(
    ("rate", "changes"),
    [
        (HEALTHY["linear warm-up from 0"], {"loss": bump}),
        (HEALTHY["constant"], {"loss": lambda s: bump(s - 300)}),
        (HEALTHY["constant"], {"loss": bump, "setting": Setting(optimizers=2)}),
        (HEALTHY["constant"], {"loss": lambda s: 2.3 + 0.1 * s}),  # never comes down: that is divergence
        (HEALTHY["constant"], {"loss": lambda s: np.exp(np.random.default_rng(int(s[0])).standard_normal(10))}),
    ],
    ids=["warm-up", "later", "two optimizers", "never down", "noise"],
)
def test_other_early_losses_are_silent(rate: Any, changes: Any) -> None:
    assert opened(DETECTORS, records(rate, **changes)) == []


def test_a_run_that_is_joined_later_is_not_judged_by_its_first_losses() -> None:
    assert opened(DETECTORS, records(lambda _: 1e-3, loss=bump, first=30)) == []
